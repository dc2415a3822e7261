"""Tables for the documentation, from the recorded results of the benchmarks and of the checkpoint's training."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

__all__ = ["write"]

ROOT = Path(__file__).parents[1]
RESULTS = ROOT / "benchmarks" / "results"
CHECKPOINT = ROOT / "ksched" / "data" / "handwritten_digits"
NOT_YET = "*Not measured yet: `python -m nox -s bench`.*\n"
_KINDS = {"ratio": "whole run", "least": "`step` alone"}
CONTENDERS = ("ksched", "k-diffusion", "diffusers", "diffusers, step", "ComfyUI")


def write(folder: Path) -> None:
    """Write one file per table into a folder."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, (source, make) in PARTS.items():
        path = (CHECKPOINT if source == "training" else RESULTS) / f"{source}.json"
        text = make(json.loads(path.read_text())) if path.exists() else NOT_YET
        (folder / f"{name}.txt").write_text(text)


def _table(columns: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = [columns, ["---", *["---:"] * (len(columns) - 1)], *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines) + "\n"


def _number(value: float | None) -> str:
    if value is None:
        return ""
    return f"{value:.0f}" if value >= 100 else f"{value:.1f}"


def _end_to_end(data: Mapping[str, Any]) -> str:
    columns = ["network", "state", "network call, ms", *(f"`{name}`, us" for name in data["samplers"]), "largest share"]
    rows = [
        [
            row["network"],
            row["shape"],
            _number(row["call_microseconds"] / 1000),
            *(_number(row["sampler_microseconds"][name]) for name in data["samplers"]),
            f"{max(row['share'].values()):.2%}",
        ]
        for row in data["rows"]
    ]
    return f"{_table(columns, rows)}\n{_machine(data)}\n"


def _machine(data: Mapping[str, Any]) -> str:
    versions = ", ".join(f"{name} {version}" for name, version in data["versions"].items())
    where = data["processor"] if data["device"] == "cpu" else data["device"]
    return f"{data['date']}: {where}, {data['cores']} cores, torch on {data['threads']} thread(s); {versions}."


def _summary(data: Mapping[str, Any]) -> str:
    short = data["summary"]
    rows = [
        [
            title,
            f"{short[key]['geometric_mean']:.1f}",
            f"{short[key]['worst']:.2f}",
            " ".join(short[key]["worst_cell"]),
        ]
        for key, title in _KINDS.items()
        if key in short
    ]
    slower = ", ".join(f"`{name}` on {shape} ({ratio:.2f})" for name, shape, ratio in short["slower"])
    columns = ["fastest of k-diffusion and diffusers over ksched", "geometric mean", "worst", "worst cell"]
    lost = f"ksched is slower in these cells: {slower}." if slower else "ksched is slower in no cell."
    return f"{_machine(data)}\n\n{_table(columns, rows)}\n{lost}\n"


def _overhead(data: Mapping[str, Any], chosen: bool) -> str:
    parts = []
    for shape in dict.fromkeys(cell["shape"] for cell in data["cells"]):
        cells = [c for c in data["cells"] if c["shape"] == shape]
        cells = [c for c in cells if not chosen or c["sampler"] in data["summary"]["samplers"]]
        names = [name for name in CONTENDERS if any(name in cell["microseconds"] for cell in cells)]
        rows = [
            [
                f"`{cell['sampler']}`",
                *(_number(cell["microseconds"].get(name)) for name in names),
                _number(cell.get("ratio")),
                f"{cell['x floor']:.2f}" if "x floor" in cell else "",
            ]
            for cell in cells
        ]
        parts.append(f"**{shape}**\n\n{_table(['sampler', *names, 'ratio', 'times the floor'], rows)}")
    return "\n".join(parts)


def _operations(data: Mapping[str, Any]) -> str:
    rows = []
    for cell in data["cells"]:
        figures = cell["figures"]
        rows.append([f"`{cell['sampler']}`"])
        for key in ("operations", "reads", "peak"):
            rows[-1] += [_number(figures.get(name, {}).get(key)) for name in ("ksched", "k-diffusion", "diffusers")]
        rows[-1].append(str(cell.get("peak_limit", "")))
    columns = ["sampler"]
    columns += [
        f"{what}{of}" for what in ("operations", "reads", "peak") for of in ("", ", k-diffusion", ", diffusers")
    ]
    return f"{data['shape']}, {data['steps']} steps.\n\n{_table([*columns, 'live registers + 1'], rows)}"


def _building(data: Mapping[str, Any]) -> str:
    keys = ("build", "start", "class", "set_timesteps")
    rows = [[f"`{cell['sampler']}`", *(_number(cell.get(key)) for key in keys)] for cell in data["cells"]]
    return _table(["sampler", "build", "start", "diffusers: class", "diffusers: set_timesteps"], rows)


def _noise(data: Mapping[str, Any]) -> str:
    rows = [
        [f"{r['grid']}, {r['shape']}", _number(r["microseconds"]), f"{r['first']:.2f}", _number(r.get("torchsde"))]
        for r in data["rows"]
        if r["steps"] == 20
    ]
    return _table(["run of 20 steps", "independent, microseconds per draw", "path", "torchsde's tree"], rows)


def _schedules(data: Mapping[str, Any]) -> str:
    processes = list(next(iter(data["schedules"].values())))
    rows = [[f"`{name}`", *(_number(of[p]) for p in processes)] for name, of in data["schedules"].items()]
    theirs = {
        f"{program}: `{name}`": time for program in ("k-diffusion", "diffusers") for name, time in data[program].items()
    }
    ours = _table([f"{data['steps']} steps", *processes], rows)
    return f"{ours}\n{_table(['theirs', 'microseconds'], [[name, _number(time)] for name, time in theirs.items()])}"


def _batching(data: Mapping[str, Any]) -> str:
    rows = [
        [
            cell["server"],
            f"{cell['load']:.1f}",
            f"{cell['images per second']:.2f}",
            *(f"{cell['latency'][key]:.2f}" for key in ("mean", "p50", "p95")),
            f"{cell['rows per call']:.1f}",
            str(cell["calls"]),
            f"{cell['outside per row']:.0f}",
        ]
        for cell in data["cells"]
    ]
    columns = ["server", "load", "images/s", "latency, mean, s", "p50", "p95", "rows per call", "calls", "outside, µs"]
    costs = data["call_milliseconds"]
    calls = _table(["rows of a call", *costs], [["milliseconds", *(f"{cost:.1f}" for cost in costs.values())]])
    equal = [f"{found['equal']} of {found['of']}" for found in (data["one_by_one"], data["filled_up"])]
    return (
        f"{_machine(data)} {len(data['requests'])} requests, at most {data['rows']} rows per call. Served one after "
        f"another, {data['capacity']:.1f} requests finish per second.\n\n{_table(columns, rows)}\n"
        f"The network is an MLP of {data['parameters'] / 1e6:.0f} million parameters on states of {data['shape']}.\n\n"
        f"{calls}\nImages of the continuous server that equal, bit for bit, those of the same request alone: "
        f"{equal[0]} with a network without matrix products, and {equal[1]} with this network and padded calls.\n"
    )


def _command(data: Mapping[str, Any]) -> str:
    return f"`{data['command']}`"


def _percent(share: float) -> str:
    return f"{100 * share:.1f} %"


def _digits_summary(data: Mapping[str, Any]) -> str:
    reader = data["reader"]
    return (
        f"{_command(data)}: {data['seconds'] / 60:.0f} minutes, CPU time "
        f"{data['processor seconds'] / 60:.0f} minutes. {_machine(data)}\n\n"
        f"Of {data['images']} generated digits, a classifier recognises **{_percent(data['right'])}** as the prompted "
        f"digit ({' + '.join(data['pair'])}, {data['steps']} steps, guidance {data['scale']:g}). The classifier was "
        f"trained on {reader['learned from']} real digits that the networks never saw. Its accuracy is "
        f"{_percent(reader['right on the training digits'])} on real digits outside its own training set, and "
        f"{_percent(reader['right on them after the autoencoder'])} on their reconstructions by the autoencoder.\n"
    )


def _digits_scales(data: Mapping[str, Any]) -> str:
    rows = [[f"{cell['scale']:g}", _percent(cell["right"])] for cell in data["by scale"]]
    each = _table(
        ["digit", *map(str, range(10))], [["recognised", *(f"{100 * share:.0f} %" for share in data["by digit"])]]
    )
    return f"{_table(['guidance', 'recognised'], rows)}\nBy digit, at guidance {data['scale']:g}:\n\n{each}"


def _digits_pairs(data: Mapping[str, Any]) -> str:
    steps = list(data["by pair"][0]["right"])
    rows = [
        [f"`{cell['sampler']}`", f"`{cell['schedule']}`", *(_percent(cell["right"][n]) for n in steps)]
        for cell in data["by pair"]
    ]
    return (
        f"{data['few']} digits per cell, guidance {data['scale']:g}, the same noise in all cells.\n\n"
        f"{_table(['sampler', 'schedule', *(f'{n} steps' for n in steps)], rows)}"
    )


def _digits_negative(data: Mapping[str, Any]) -> str:
    return (
        "With an empty prompt, each digit appears in one image of ten, on average. With a digit as negative prompt, at "
        f"guidance {data['scale']:g}, it appears in {_percent(data['negative'])} of {data['few']} images.\n"
    )


def _digits_originality(data: Mapping[str, Any]) -> str:
    found = data["originality"]
    rows = [
        [name, *(_percent(at[name]) if name.startswith("share") else f"{at[name]:.3f}" for at in found.values())]
        for name in next(iter(found.values()))
    ]
    return _table(["median distance", *found], rows)


def _few_calls(data: Mapping[str, Any]) -> str:
    of, std, tune = data["reference"], data["std"], data["tune"]
    return (
        f"{_command(data)}: {data['seconds'] / 60:.0f} minutes, CPU time "
        f"{data['processor seconds'] / 60:.0f} minutes; `tune` took {tune['seconds'] / 60:.0f} minutes. "
        f"{_machine(data)}\n\n"
        f"{data['images']} prompted digits, guidance {data['scale']:g}, the same start noise in all cells. The "
        f"reference is `{of['sampler']}` + `{of['schedule']}`, {_options(of['options'])}, {of['steps']} steps; "
        f"{_percent(of['right'])} of its digits are recognised. The standard deviation is "
        f"{std['latents of real digits']:.2f} for latents of real digits, {std['latents of the reference']:.2f} for "
        f"latents of the reference and {std['pixels of real digits']:.2f} for pixels, so `data_std` stays at 1.\n"
    )


def _options(options: Mapping[str, Any]) -> str:
    return ", ".join(f"`{name}={json.dumps(value)}`" for name, value in options.items())


def _few_calls_right(data: Mapping[str, Any]) -> str:
    rows = [
        [str(row["calls"]), *(_percent(row["methods"][n]["right"]) for n in data["methods"])] for row in data["rows"]
    ]
    return _table(["recognised, by NFE", *map(_coded, data["methods"])], rows)


def _few_calls_distance(data: Mapping[str, Any]) -> str:
    rows = []
    for row in data["rows"]:
        cells = [row["methods"][name] for name in data["methods"]]
        least = min(cell["mean"] for cell in cells)
        rows.append([str(row["calls"])])
        for cell in cells:
            mean = f"{cell['mean']:.3f}"
            rows[-1].append(f"{f'**{mean}**' if cell['mean'] == least else mean} ({cell['median']:.3f})")
    return _table(["mean distance (median), by NFE", *map(_coded, data["methods"])], rows)


def _few_calls_chosen(data: Mapping[str, Any]) -> str:
    rows = [
        [
            str(row["calls"]),
            row["auto is"],
            row["tune chose"],
            f"{row['expected']['mean']:.3f}",
            str(row["model calls"]),
        ]
        for row in data["rows"]
    ]
    return _table(["NFE", "`auto` is", "`tune` chose", "error that `tune` expected", "model calls of `tune`"], rows)


def _objectives(data: Mapping[str, Any]) -> str:
    names = ("means, path", "means, law", "free rows, path", "free rows, law")
    rows = []
    for row in data["rows"]:
        cells = row["methods"]
        shown = [f"{cells[name]['error']:.3f}, {1000 * cells[name]['energy']:.1f}" for name in names]
        rows.append([f"`{row['family']}`, {row['of']}", str(row["calls"]), *shown])
    chance = max(abs(row["methods"]["exact"]["energy"]) for row in data["rows"])
    said = f"Error, and energy distance in thousandths; chance is up to {1000 * chance:.1f}. {_machine(data)}"
    return f"{said}\n\n{_table(['data, range', 'calls', *names], rows)}"


def _free_rows(data: Mapping[str, Any]) -> str:
    rows = [
        [row["condition"], str(row["calls"]), *(f"{row['methods'][name]['mean']:.4f}" for name in data["methods"])]
        for row in data["rows"]
    ]
    columns = ["mean distance", "calls", *(f"`{name}`" for name in data["methods"])]
    return f"{_command(data)}. {_machine(data)}\n\n{_table(columns, rows)}"


def _free_rows_right(data: Mapping[str, Any]) -> str:
    rows = [
        [
            row["condition"],
            str(row["calls"]),
            _percent(row["reference"]),
            *(_percent(row["methods"][name]["right"]) for name in data["methods"]),
        ]
        for row in data["rows"]
    ]
    columns = ["recognised digits", "calls", "many steps", *(f"`{name}`" for name in data["methods"])]
    return _table(columns, rows)


def _coded(pair: str) -> str:
    return " + ".join(f"`{name}`" for name in pair.split(" + ")) if " + " in pair else f"`{pair}`"


def _digits_training(data: Mapping[str, Any]) -> str:
    parts = {"vae": "autoencoder", "text_encoder": "text encoder", "unet": "UNet"}
    of = data["data"]
    size = ", ".join(f"{title} {data['parameters'][name]:,}" for name, title in parts.items())
    vae, text, unet = data["vae"], data["text"], data["unet"]
    rows = [
        ["autoencoder", str(vae["steps"]), str(vae["batch"]), f"square error {vae['final_square_error']:.4f}"],
        ["text encoder, pretraining", str(text["steps"]), "128", f"cross-entropy {text['final_cross_entropy']:.3f}"],
        ["UNet and text encoder", str(unet["steps"]), str(unet["batch"]), f"square error {unet['final_loss']:.4f}"],
    ]
    for row, stage in zip(rows, (vae, text, unet), strict=True):
        row.append(f"{stage['seconds'] / 60:.1f}")
    return (
        f"{_command(data)} on {data['date']}, seed {data['seed']}, {data['threads']} CPU threads of a machine with "
        f"other load; torch {data['versions']['torch']}. {of['training']} real digits, {of['held_out']} held out. "
        f"Parameters: {size}.\n\n{_table(['stage', 'steps', 'batch', 'final loss', 'minutes'], rows)}"
    )


_PAPERS_METHODS = (
    "best pair",
    "levels",
    "GITS",
    "OSS, Euler",
    "OSS",
    "LD3",
    "LD3, hard",
    "S4S",
    "S4S-Alt",
    "DyWeight",
    "BNS",
)
_RANGES = {"sd": "Stable Diffusion's range", "edm": "EDM's range", "flow": "flow matching"}


def _error(value: float | None) -> str:
    return "" if value is None or not math.isfinite(value) else f"{value:.4f}" if value < 1 else f"{value:.2g}"


def _pair(entry: Mapping[str, Any] | Sequence[str]) -> str:
    sampler, schedule = (entry["sampler"], entry["schedule"]) if isinstance(entry, Mapping) else entry
    return f"`{sampler}` + `{schedule}`"


def _leaders(data: Mapping[str, Any]) -> str:
    parts = [_machine({**data, "threads": 1})]
    for of, by_calls in data["ranges"].items():
        rows = []
        for calls, cell in by_calls.items():
            peer, (best, second, third, *_) = data["checks"][of][calls][0], cell["leaders"]
            rows.append([calls, f"{_pair(peer)} {_error(peer['recorded'])}", f"{_pair(best)} {_error(best['error'])}"])
            rows[-1] += [f"{_pair(other)} {_error(other['error'])}" for other in (second, third)]
            rows[-1].append(f"{peer['recorded'] / best['error']:.2f}")
        columns = ["NFE", "best in ComfyUI", "best in ksched", "second", "third", "ComfyUI's best error over ksched's"]
        parts.append(f"**{_RANGES[of]}**\n\n{_table(columns, rows)}")
    return "\n\n".join(parts)


def _losses(data: Mapping[str, Any]) -> str:
    lost = [
        f"{calls} calls on {_RANGES[of]} ({data['checks'][of][calls][0]['recorded'] / cell['leaders'][0]['error']:.2f})"
        for of, by_calls in data["ranges"].items()
        for calls, cell in by_calls.items()
        if cell["leaders"][0]["error"] > data["checks"][of][calls][0]["recorded"]
    ]
    if not lost:
        return "ComfyUI's best pair of sampler and schedule is better than ksched's at no NFE and on no range.\n"
    return f"ComfyUI's best pair of sampler and schedule is better than ksched's at {', '.join(lost)}.\n"


def _by_name(data: Mapping[str, Any], key: str) -> str:
    parts = []
    for of, by_calls in data["ranges"].items():
        names = sorted({name for cell in by_calls.values() for name in cell[key]})
        rows = [
            [f"`{name}`", *(_best(cell[key].get(name)) for cell in by_calls.values())]
            for name in sorted(names, key=lambda name: _middle(by_calls, key, name))
        ]
        parts.append(f"**{_RANGES[of]}**\n\n{_table([key[:-1], *by_calls], rows)}")
    return "\n".join(parts)


def _middle(by_calls: Mapping[str, Any], key: str, name: str) -> float:
    """Return the error of a name at 10 NFE, by which tables are sorted."""
    found = by_calls["10"][key].get(name)
    return math.inf if found is None or found[1] is None else float(found[1])


def _same(data: Mapping[str, Any]) -> str:
    found = [f"`{name}` is also {' and '.join(f'`{o}`' for o in others)}" for name, others in data["same"].items()]
    return f"Samplers with equal plans share a line: {'; '.join(found)}.\n"


def _best(found: Sequence[Any] | None) -> str:
    return "" if found is None else f"{_error(found[1])} `{found[0]}`"


def _checks(data: Mapping[str, Any]) -> str:
    rows = [
        [of, calls, _pair(row), f"{row['recorded']:.4f}", _error(row["here"])]
        for of, by_calls in data["checks"].items()
        for calls, found in by_calls.items()
        for row in found
    ]
    return _table(["range", "calls", "pair", "recorded", "here"], rows)


def _held_out(data: Mapping[str, Any]) -> str:
    beds = ("gauss", "gmm_digits", "gmm_patches", "kde_digits", "kde_patches", "cfg3_digits", "cfg6_digits")
    rows = []
    for calls, found in data["held_out"].items():
        peer = data["held_out_peers"][calls]
        rows.append([f"{calls}: ComfyUI's {_pair(peer)}", _error(peer["recorded"]), *([""] * len(beds))])
        for row in found[:8]:
            figures = [_error(row["testbeds"][bed]["mean"]) for bed in beds]
            rows.append([f"{calls}: {_pair(row)}", _error(row["error"]), *figures])
    return _table(["calls, pair", "six", *beds], rows)


def _generalisation(data: Mapping[str, Any]) -> str:
    """Tabulate by family how many times smaller the error of `auto` is than the best pair's."""
    parts = []
    for of, cells in data["unguided"].items():
        families = list(next(iter(cells.values()))["families"])
        rows = []
        for calls, cell in cells.items():
            used, every = ([cell["families"][family][key] for family in families] for key in ("gain_used", "gain"))
            shown = (*used, _middle_of(used), min(used), _middle_of(every))
            rows.append([calls, *(f"{gain:.2f}" for gain in shown)])
        header = ["NFE", *families, "mean", "least", "mean over all pairs"]
        parts.append(f"**{_RANGES[of]}**\n\n{_table(header, rows)}")
    return "\n".join([f"{_machine(data)}\n", *parts])


def _generalisation_tune(data: Mapping[str, Any]) -> str:
    """What `tune` makes of samples of those families, and how often its guard fails."""
    if "tune" not in data:
        return "This part has not been measured with this version yet.\n"
    rows, worse = [], []
    for of, by_calls in data["tune"].items():
        for calls, cells in by_calls.items():
            cases = [case for found in cells.values() for case in found]
            gains = [_middle_of(case[key] / case["tune"] for case in cases) for key in ("used", "pair", "auto")]
            seconds = sorted(case["seconds"] for case in cases)[len(cases) // 2]
            rows.append([_RANGES[of], calls, *(f"{gain:.2f}" for gain in gains), f"{seconds:.0f} s"])
            worse += [case["tune"] / min(case["auto"], case["pair"]) for case in cases]
    header = ["range", "NFE", "16 pairs", "all pairs", "`auto`", "time"]
    within = sum(w <= 1.05 for w in worse) / len(worse)
    return (
        f"{_table(header, rows)}\nOf {len(worse)} plans, {within:.0%} have at most 1.05 times the smaller error "
        f"of `auto` and the best pair; the worst has {max(worse):.2f} times.\n"
    )


def _generalisation_guided(data: Mapping[str, Any]) -> str:
    rows = []
    for of, by_calls in data["guided"].items():
        for calls, by_scale in by_calls.items():
            for scale, cells in by_scale.items():
                means = [_middle_of(cell[key] for cell in cells.values()) for key in ("error", "auto", "told")]
                rows.append([_RANGES[of], calls, scale, *map(_error, means)])
    return _table(["range", "calls", "guidance", "best pair", "`auto`", "`auto` with `guidance=`"], rows)


def _generalisation_checkpoint(data: Mapping[str, Any]) -> str:
    rows = [[n, *(_error(cell[key]) for key in ("auto", "told"))] for n, cell in data["checkpoint"]["calls"].items()]
    return _table(["calls", "`auto`", f"`auto`, guidance={data['checkpoint']['scale']:g}"], rows)


def _middle_of(values: Iterable[float]) -> float:
    """Geometric mean."""
    found = list(values)
    return math.exp(sum(map(math.log, found)) / len(found))


def _laws(data: Mapping[str, Any]) -> str:
    rows = []
    for name, by_calls in data["laws"].items():
        best = [min(found.items(), key=lambda item: item[1], default=("", math.inf)) for found in by_calls.values()]
        rows.append([f"`{name}`", *(f"{_error(distance)} `{schedule}`" for schedule, distance in best)])
    rows.append(["an exact sample", *[_error(data["law_floor"])] * (len(rows[0]) - 1)])
    return _table(["sampler", *next(iter(data["laws"].values()))], rows)


def _tuned_rows(cells: Mapping[str, Any], *more: Callable[[Mapping[str, Any]], str]) -> list[list[str]]:
    """Build a row per NFE: the recorded pair, the error for each seed, and how many times smaller it is."""
    rows = []
    for calls, cell in cells.items():
        means = [found["main"] for found in cell["seeds"].values()]
        peer = cell["peer"]
        gain = f"{peer['error'] / max(means):.2f}"
        rows.append([calls, f"{_pair(peer)} {_error(peer['error'])}", *map(_error, means), gain])
        rows[-1] += [make(cell) for make in more]
    return rows


def _tuned_table(data: Mapping[str, Any], part: str, columns: Sequence[str], *more: Callable[..., str]) -> str:
    seeds = [f"seed {seed}" for seed in data["seeds"]]
    head = ["NFE", "best in ComfyUI", *seeds, "times smaller", *columns]
    parts = [f"**{_RANGES[of]}**\n\n{_table(head, _tuned_rows(cells, *more))}" for of, cells in data[part].items()]
    return "\n".join(parts)


def _tuned_auto(data: Mapping[str, Any]) -> str:
    return f"{_machine(data)}\n\n{_tuned_table(data, 'auto', [])}"


def _tuned_tune(data: Mapping[str, Any]) -> str:
    if "tune" not in data:
        return NOT_YET

    def versus_ten(cell: Mapping[str, Any]) -> str:
        return f"{cell['peer_10'] / max(found['main'] for found in cell['seeds'].values()):.2f}"

    def seconds(cell: Mapping[str, Any]) -> str:
        return f"{max(bed['seconds'] for found in cell['seeds'].values() for bed in found['testbeds'].values()):.0f}"

    columns = ["times smaller than ComfyUI's best at 10", "most seconds"]
    return _tuned_table(data, "tune", columns, versus_ten, seconds)


def _tuned_six(data: Mapping[str, Any]) -> str:
    rows = []
    for calls, cell in data["auto"]["sd"].items():
        if "peer_on_six" not in cell:
            continue
        peer, found = cell["peer_on_six"], cell["seeds"].values()
        beds = [bed for bed in next(iter(found))["testbeds"] if bed in next(iter(peer["seeds"].values()))]
        theirs = [max(one[bed] for one in peer["seeds"].values()) for bed in beds]
        ours = [max(one["testbeds"][bed]["mean"] for one in found) for bed in beds]
        rows.append([f"{calls}: {_pair(peer)}", _error(peer["error"]), *map(_error, theirs)])
        rows.append([f"{calls}: `auto`", _error(max(one["six"] for one in found)), *map(_error, ours)])
    return _table(["NFE, worse seed", "all six", *beds], rows)


def _tuned_guard(data: Mapping[str, Any]) -> str:
    if "guard" not in data:
        return NOT_YET
    rows = data["guard"]
    accepted = [row for row in rows if row["tuned"]]
    gain = math.exp(sum(math.log(row["best_error"] / row["error"]) for row in accepted) / max(len(accepted), 1))
    models = sum(row["source"] == "model" for row in rows)
    text = (
        f"{len(rows)} plans: {models} tuned on a denoiser and {len(rows) - models} on 1000 samples, with 20 seeds, on "
        f"seven testbeds and three ranges of noise, at 5 to 20 NFE, with and without guidance, and with white noise of "
        f"0 to 3 % in the denoiser's predictions. `tune` accepted {len(accepted)} tuned plans. Their errors on 256 new "
        f"start states are {gain:.2f} times smaller (geometric mean) than those of the best pair on these states. In "
        "the other cases `tune` returned the pair with the smallest estimated error. "
    )
    worse = [row for row in rows if row["error"] > 1.05 * row["best_error"]]
    beside_own = [row["error"] / row["untuned_error"] for row in rows]
    text += (
        "More than 5 % worse than the pair that `tune` would have returned otherwise: "
        f"{sum(ratio > 1.05 for ratio in beside_own)}, the worst by {max(0.0, max(beside_own) - 1) * 100:.0f} %. "
    )
    if again := [ours / theirs for ours, theirs in (row["again"] for row in rows if row.get("again"))]:
        text += (
            "All plans worse than that pair were measured again on 2048 other start states, where a single run that "
            f"switches modes counts less. Of these {len(again)}, {sum(ratio > 1.05 for ratio in again)} are more than "
            f"5 % worse; the largest error is {max(again):.2f} times the pair's. "
        )
    text += f"More than 5 % worse than the best pair on the test states, which `tune` cannot know: {len(worse)}.\n"
    if not worse:
        return text
    keys = ("testbed", "range", "source", "calls", "noise", "chosen", "error", "best", "best_error")
    columns = ["testbed", "range", "from", "calls", "noise", "chosen", "error", "best pair", "its error"]
    lines = [[str(r[key]) if isinstance(r[key], str | int) else _error(r[key]) for key in keys] for r in worse]
    return f"{text}\n{_table(columns, lines)}"


def _policy_steps(data: Mapping[str, Any]) -> str:
    """Build a table per shift with a row per rule: excess noise, distance and entropy for each number of steps."""
    parts = []
    for shift in dict.fromkeys(row["shift"] for row in data["rows"]):
        by_rule: dict[str, list[str]] = {}
        steps: dict[int, None] = {}
        for row in (row for row in data["rows"] if row["shift"] == shift):
            name = "".join(f", {option} {value:g}" for option, value in row["options"].items())
            cells = by_rule.setdefault(f"`{row['rule']}`{name}", [])
            cells += [f"{row['std_ratio']:.2f}", f"{row['w2']:.3f}", f"{row['entropy']:.1f}"]
            steps[row["steps"]] = None
        columns = [part for count in steps for part in (f"{count} steps: std", "W2", "entropy")]
        parts.append(f"**shift {shift:g}**\n\n{_table(['rule', *columns], [[n, *c] for n, c in by_rule.items()])}")
    return "\n".join(parts)


def _papers(data: Mapping[str, Any]) -> str:
    """Build a row per claim."""
    columns = ["paper", "claim", "here"]
    rows = [
        [f"[{row['paper']}]({row['link']})", row["claim"], "agrees" if row["agrees"] else "**does not**"]
        for row in data["findings"]
    ]
    lines = [columns, ["---", "---", "---"], *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines) + "\n"


def _papers_figures(data: Mapping[str, Any]) -> str:
    """Build a row per claim with the measured numbers."""
    rows = [
        [row["paper"], "; ".join(f"{name}: {value:.3g}" for name, value in row["figures"].items())]
        for row in data["findings"]
    ]
    lines = [["paper", "measured"], ["---", "---"], *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines) + "\n"


def _figure(cell: Mapping[str, Any] | None) -> str:
    """Format an error with its PSNR."""
    return "" if cell is None else f"{_error(cell['error'])} ({cell['psnr']:.1f})"


def _saved(cell: Mapping[str, Any] | None, against: str) -> str:
    """Format how many more model calls a pair needs for the same error."""
    if cell is None:
        return ""
    calls = cell.get(f"saved, {against}")
    return "more" if calls is None else f"{round(calls, 1) + 0.0:.1f}"


def _headline(data: Mapping[str, Any]) -> str:
    """Build a table per range, and one for the network."""
    parts = [f"{_machine(data)}\n"]
    reference, checkpoint = "dpmpp_2m", data.get("checkpoint")
    titled = [(_RANGES[of], part) for of, part in data["ranges"].items()]
    if checkpoint:
        title = f"the network of handwritten digits with guidance {checkpoint['scale']:g}"
        titled.append((title, checkpoint))
    for title, part in titled:
        rows = []
        for calls, cells in part["calls"].items():
            if "auto" not in cells:
                continue
            rows.append([calls, *(_figure(cells.get(name)) for name in (reference, "best pair", "hindsight"))])
            for name in ("auto", "tune"):
                cell = cells.get(name)
                rows[-1] += [_figure(cell), *(_saved(cell, against) for against in (reference, "best pair"))]
        columns = ["calls", f"`{reference}`", "best pair", "hindsight"]
        for name in ("auto", "tune"):
            columns += [f"**`{name}`**", f"NFE saved over `{reference}`", "over the best pair"]
        floor = f"\nSmallest possible error of the last step: {_figure(part['floor'])}.\n" if "floor" in part else ""
        parts.append(f"**{title[:1].upper()}{title[1:]}**\n\n{_table(columns, rows)}{floor}")
    return "\n".join(parts)


def _headline_pairs(data: Mapping[str, Any]) -> str:
    """Tabulate the best pair on every range and on the network."""
    parts = {_RANGES[of]: part for of, part in data["ranges"].items()}
    if "checkpoint" in data:
        parts["the network"] = data["checkpoint"]
    counts = [calls for calls, cells in next(iter(parts.values()))["calls"].items() if "auto" in cells]
    best = {n: [part["calls"].get(n, {}).get("best pair", {}) for part in parts.values()] for n in counts}
    rows = [[calls, *(cell.get("pair", "") for cell in cells)] for calls, cells in best.items()]
    return _table(["best pair, by NFE", *parts], rows)


def _learned_solvers(data: Mapping[str, Any]) -> str:
    """Tabulate errors with PSNR by method and NFE: on exact data, averaged per range, and on the network."""
    groups: dict[str, list[Mapping[str, Any]]] = {}
    for name, cells in data["beds"].items():
        groups.setdefault(_RANGES.get(name.split()[0], "the network with guidance 4"), []).append(cells)
    parts = [f"{_machine(data)}\n"]
    for title, beds in groups.items():
        counts = [calls for calls in beds[0] if all(calls in cells for cells in beds)]
        rows = []
        for name in dict.fromkeys(name for cells in beds[:1] for n in counts for name in cells[n]["methods"]):
            found = [[cells[n]["methods"][name] for cells in beds if name in cells[n]["methods"]] for n in counts]
            rows.append([name if name in _PAPERS_METHODS else f"`{name}`"])
            rows[-1] += [_together(cells) if len(cells) == len(beds) else "" for cells in found]
            rows[-1] += _costs(found[-1])
        columns = ["", *(f"{calls} calls" for calls in counts)]
        columns += ["fitted numbers", "training, thousand calls", "seconds"]
        parts.append(f"**{title[:1].upper()}{title[1:]}**\n\n{_table(columns, rows)}")
    return "\n".join(parts)


def _together(cells: Sequence[Mapping[str, Any]]) -> str:
    """Format the geometric mean of errors and the mean PSNR."""
    return f"{_error(_middle_of(cell['mean'] for cell in cells))} ({sum(c['psnr'] for c in cells) / len(cells):.1f})"


def _costs(cells: Sequence[Mapping[str, Any]]) -> list[str]:
    """Return the largest count of fitted numbers, of training calls and of seconds."""
    if not cells or not max(cell["calls"] for cell in cells):
        return ["", "", ""]
    numbers, calls, seconds = (max(cell[key] for cell in cells) for key in ("numbers", "calls", "seconds"))
    return [str(numbers), f"{calls / 1000:.0f}", f"{seconds:.0f}"]


def _grpo(data: Mapping[str, Any]) -> str:
    """Build a row per rule: entropy, and distance and gap before and after training."""
    columns = ["step", "entropy", "distance before", "after", "gap before", "after", "mean reward", "seconds"]
    rows = [
        [
            f"`{row['rule'].replace(', ', '`, ', 1)}",
            f"{row['entropy']:.2f}",
            *(f"{row[when][what]:.3f}" for what in ("distance", "gap") for when in ("before", "after")),
            f"{row['after']['reward']:.3f}",
            f"{row['seconds']:.0f}",
        ]
        for row in data["rows"]
    ]
    said = (
        f"Two sets of {data['count']:,} exact samples of the tilted distribution are {data['floor']:.3f} apart; the "
        f"distance from the untilted mixture is {data['untilted']:.3f}. The mean reward of the tilted distribution is "
        f"{data['reward']:.3f}. Training ran {data['iterations']} iterations of {data['batch']:,} paths. Entropy is in "
        f"nats per number of the state. Everything took {data['seconds']:.0f} s."
    )
    return f"{_table(columns, rows)}\n{said} {_machine(data)}\n"


def _parallel(data: Mapping[str, Any], memory: int) -> str:
    tolerances = sorted({row["tolerance"] for row in data["rows"]}, reverse=True)
    found: dict[tuple[str, int], list[str]] = {}
    for row in data["rows"]:
        if row["anderson"] == memory:
            cell = f"{row['rounds']} / {row['calls']:.0f} / {row['median_from_sample']:.4f} ({row['from_sample']:.3f})"
            found.setdefault((row["sampler"], row["nfe"]), []).append(cell)
    columns = ["sampler", "calls", *(f"tolerance {tolerance:g}" for tolerance in tolerances)]
    return _table(columns, [[f"`{name}`", str(nfe), *cells] for (name, nfe), cells in found.items()])


def _skipping(data: Mapping[str, Any]) -> str:
    rules = ("whole", "reuse", "line", "own grid", "auto")
    rows = [
        [f"`{row['sampler']}` `{row['schedule']}`", str(row["kept"]), *(f"{row['errors'][rule]:.4f}" for rule in rules)]
        for row in data["rows"]
    ]
    named = ["skip, reuse", "skip, line", "fewer steps, equal NFE", "`auto`"]
    return _table(["sampler", "calls", f"all {data['calls']} calls", *named], rows)


def _parallel_errors(data: Mapping[str, Any]) -> str:
    plain = {
        (row["sampler"], row["nfe"]): row["sample_from_exact"]
        for row in data["rows"]
        if row["sample_from_exact"] is not None
    }
    rows = [[f"`{name}`", str(nfe), f"{error:.4f}"] for (name, nfe), error in plain.items()]
    auto = data["auto"]
    return _table(
        ["`sample`", "calls", "from the exact solution"],
        [["`auto`", str(auto["calls"]), f"{auto['from_exact']:.4f}"], *rows],
    )


def _distance(value: float | None) -> str:
    """Format a distance, or a dash if the run diverged."""
    return "–" if value is None else f"{value:.3f}" if value < 10 else f"{value:.0f}"


def _posterior_summary(data: Mapping[str, Any]) -> str:
    problems = data["problems"]
    rules = list(dict.fromkeys(row["rule"] for rows in problems.values() for row in rows))
    lines = []
    for name, rows in problems.items():
        most = max(row["calls"] for row in rows)
        first = next(row["sampler"] for row in rows if row["sampler"])
        found = {row["rule"]: row for row in rows if row["calls"] in (0, most) and row["sampler"] in ("", first)}
        lines.append([f"{name}, `{first}`, {most} calls", *(_distance(found[rule]["distance"]) for rule in rules)])
    return _table(["", *(rule if rule == "exact" else f"`{rule}`" for rule in rules)], lines)


def _posterior(data: Mapping[str, Any]) -> str:
    parts = [_machine(data) + f" {data['samples']} samples for each of {data['observations']} observations.\n"]
    for name, rows in data["problems"].items():
        counts = sorted({row["calls"] for row in rows if row["calls"]})
        floor = rows[0]
        lines = [["exact samples", *[_distance(floor["distance"])] * len(counts), *_moments(floor)]]
        for rule, sampler in dict.fromkeys((row["rule"], row["sampler"]) for row in rows[1:]):
            own = {row["calls"]: row for row in rows if (row["rule"], row["sampler"]) == (rule, sampler)}
            cells = [_distance(own[calls]["distance"]) if calls in own else "" for calls in counts]
            lines.append([f"{rule}: `{sampler}`", *cells, *_moments(own[max(own)])])
        columns = ["rule and sampler", *(f"{calls} calls" for calls in counts), "mean", "covariance"]
        parts.append(f"**{name}**\n\n{_table(columns, lines)}")
    return "\n".join(parts)


def _moments(row: Mapping[str, Any]) -> list[str]:
    return [_distance(row["mean"]), _distance(row["covariance"])]


PARTS: Mapping[str, tuple[str, Callable[[Mapping[str, Any]], str]]] = {
    "summary": ("overhead", _summary),
    "compared": ("overhead", lambda data: _overhead(data, chosen=True)),
    "overhead": ("overhead", lambda data: _overhead(data, chosen=False)),
    "gpu": ("overhead_cuda", lambda data: f"{_summary(data)}\n{_overhead(data, chosen=True)}"),
    "end_to_end": ("end_to_end", _end_to_end),
    "operations": ("operations", _operations),
    "building": ("building", _building),
    "noise": ("noise", _noise),
    "batching": ("batching", _batching),
    "batching_gpu": ("batching_cuda", _batching),
    "schedules": ("schedules", _schedules),
    "parallel": ("parallel", lambda data: _parallel(data, 0)),
    "parallel_anderson": ("parallel", lambda data: _parallel(data, 2)),
    "parallel_errors": ("parallel", _parallel_errors),
    "skipping": ("skipping", _skipping),
    "digits_summary": ("digits_recognised", _digits_summary),
    "digits_scales": ("digits_recognised", _digits_scales),
    "digits_pairs": ("digits_recognised", _digits_pairs),
    "digits_negative": ("digits_recognised", _digits_negative),
    "digits_originality": ("digits_recognised", _digits_originality),
    "few_calls": ("digits_in_few_calls", _few_calls),
    "few_calls_right": ("digits_in_few_calls", _few_calls_right),
    "few_calls_distance": ("digits_in_few_calls", _few_calls_distance),
    "few_calls_chosen": ("digits_in_few_calls", _few_calls_chosen),
    "free_rows": ("free_rows", _free_rows),
    "free_rows_right": ("free_rows", _free_rows_right),
    "objectives": ("objectives", _objectives),
    "digits_training": ("training", _digits_training),
    "accuracy": ("accuracy", _leaders),
    "accuracy_lost": ("accuracy", _losses),
    "accuracy_same": ("accuracy", _same),
    "accuracy_samplers": ("accuracy", lambda data: _by_name(data, "samplers")),
    "accuracy_schedules": ("accuracy", lambda data: _by_name(data, "schedules")),
    "accuracy_checks": ("accuracy", _checks),
    "accuracy_held_out": ("accuracy", _held_out),
    "accuracy_laws": ("accuracy", _laws),
    "posterior": ("posterior", _posterior),
    "posterior_summary": ("posterior", _posterior_summary),
    "generalisation": ("generalisation", _generalisation),
    "generalisation_tune": ("generalisation", _generalisation_tune),
    "generalisation_guided": ("generalisation", _generalisation_guided),
    "generalisation_checkpoint": ("generalisation", _generalisation_checkpoint),
    "tuned_auto": ("tuned", _tuned_auto),
    "tuned_six": ("tuned", _tuned_six),
    "tuned_tune": ("tuned", _tuned_tune),
    "tuned_guard": ("tuned", _tuned_guard),
    "policy_steps": ("policy_steps", _policy_steps),
    "grpo": ("grpo", _grpo),
    "headline": ("headline", _headline),
    "headline_pairs": ("headline", _headline_pairs),
    "learned_solvers": ("learned_solvers", _learned_solvers),
    "papers": ("papers", _papers),
    "papers_figures": ("papers", _papers_figures),
}
