// Sorts a long table by the column whose heading is clicked; once more for the other direction.
document.addEventListener("DOMContentLoaded", () => {
  for (const table of document.querySelectorAll("table")) {
    const body = table.tBodies[0];
    if (!body || !table.tHead || body.rows.length < 20) continue;
    [...table.tHead.rows[0].cells].forEach((heading, column) => {
      heading.style.cursor = "pointer";
      heading.addEventListener("click", () => {
        const direction = heading.dataset.direction === "1" ? -1 : 1;
        heading.dataset.direction = direction;
        const text = (row) => row.cells[column].textContent.trim();
        const rows = [...body.rows].sort(
          (a, b) => direction * text(a).localeCompare(text(b), undefined, { numeric: true })
        );
        body.append(...rows);
      });
    });
  }
});
