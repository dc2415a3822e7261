"""Saved runs continue bit for bit in another process. All tests share one child, since torch starts slowly.

``python tests/test_another_process.py FOLDER`` is that process.
"""

from __future__ import annotations

import pickle
import subprocess
import sys
from pathlib import Path
from typing import Any

import torch
from test_frames import begun, mixing
from test_streams import started, together

import ksched

NAMES = ("dpmpp_2m_sde", "dpm_adaptive")


def model(x: torch.Tensor, sigma: torch.Tensor) -> torch.Tensor:
    return x * (1 / (1 + sigma.reshape(-1, 1) ** 2))


def finish(run: Any) -> torch.Tensor:
    while not run.done:
        run.feed(model(run.x, run.sigma))
    end: torch.Tensor = run.x
    return end


# ------------------------------------------------------------------------------------------------- here: what is saved


def save_runs(path: Path) -> None:
    saved = {}
    for name in NAMES:
        sampler = ksched.build_sampler(name, "karras", 4)
        x = sampler.initial_state((2, 3), seed=1)
        run: Any = sampler.start(x, seed=[4, 5])
        for _ in range(3):
            run.feed(model(run.x, run.sigma))
        end = sampler.sample(model, x, seed=[4, 5])
        saved[name] = pickle.dumps((run, sampler, end)), run.state_dict()
    torch.save(saved, path)


def save_streams(path: Path) -> None:
    streams = started()
    for _ in range(3):
        streams.feed(**together(streams.x, streams.sigma))
    torch.save((streams.state_dict(), pickle.dumps(streams), dict(streams.sample(together))), path)


def save_frames(path: Path) -> None:
    frames = begun()
    for _ in range(6):
        frames.feed(*mixing(frames.x, frames.sigma))
    torch.save((frames.state_dict(), pickle.dumps(frames), frames.sample(mixing)), path)


def save_rollout(path: Path) -> None:
    sampler = ksched.build_sampler("dpmpp_3m_sde", "karras", 6)
    path.write_bytes(pickle.dumps(sampler.rollout(model, sampler.initial_state((3, 1001), seed=0), seed=1)))


# --------------------------------------------------------------------------------------------- there: how it goes on


def runs_go_on(path: Path) -> None:
    for name, (pickled, state) in torch.load(path).items():
        run, sampler, end = pickle.loads(pickled)
        assert torch.equal(finish(run), end)
        sampler.sample(lambda x, sigma: x / 2, 14.6 * torch.ones(1, 70000), seed=1)
        other = ksched.build_sampler(name, "karras", 4).start(torch.ones(2, 3), seed=0)
        other.load_state_dict(state)
        assert torch.equal(finish(other), end)


def streams_go_on(path: Path) -> None:
    state, pickled, end = torch.load(path, weights_only=True)
    streams = started()
    streams.load_state_dict(state)
    for each in (streams, pickle.loads(pickled)):
        assert each.nfe == 3
        results = each.sample(together)
        assert all(torch.equal(results[name], x) for name, x in end.items())


def frames_go_on(path: Path) -> None:
    state, pickled, end = torch.load(path, weights_only=True)
    frames = begun()
    frames.load_state_dict(state)
    for each in (frames, pickle.loads(pickled)):
        assert each.tick == 6
        assert torch.equal(each.sample(mixing), end)


def a_rollout_has_the_same_scores(path: Path) -> None:
    rollout = pickle.loads(path.read_bytes())
    assert torch.equal(ksched.build_sampler("dpmpp_3m_sde", "karras", 6).log_prob(model, rollout), rollout.log_prob)


SAVED = {runs_go_on: save_runs, streams_go_on: save_streams, frames_go_on: save_frames}
SAVED[a_rollout_has_the_same_scores] = save_rollout


def test_what_is_saved_goes_on_in_another_process(tmp_path: Path) -> None:
    for goes_on, save in SAVED.items():
        save(tmp_path / goes_on.__name__)
    done = subprocess.run([sys.executable, __file__, str(tmp_path)], capture_output=True, text=True, check=False)
    assert done.stdout.split() == [goes_on.__name__ for goes_on in SAVED], done.stderr
    assert done.returncode == 0, done.stderr


if __name__ == "__main__":
    for goes_on in SAVED:
        goes_on(Path(sys.argv[1]) / goes_on.__name__)
        print(goes_on.__name__)
