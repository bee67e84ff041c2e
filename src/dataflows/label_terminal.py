"""What ``labels check`` shows: per source what is there, what is mapped, repaired and refused."""

from rich.console import Console
from rich.table import Table

from dataflows.chain_terminal import dataset_text
from dataflows.label_report import Finding, LabelReport, SourceReport
from utils.label_check import ID_REASONS
from utils.label_geometry import REASONS, REPAIRS


def print_label_report(report: LabelReport) -> None:
    """Show a report in the terminal."""
    console = Console(markup=False, emoji=False)
    if report.catalog is not None:
        console.print(f"catalogue {report.catalog}, snapshot {report.snapshot}")
    if report.limited_to is not None:
        console.print(f"only the first {report.limited_to:,} rows of each source were looked at", style="yellow")
    for source in report.sources:
        console.print()
        _print_source(console, source)
    if report.manifests:
        console.print()
        for name, manifest in report.manifests.items():
            known = (
                None
                if not manifest.known
                else {
                    key: getattr(manifest, key)
                    for key in ("doi", "licence", "title", "version", "citation", "url", "origin")
                }
            )
            console.print(dataset_text(name, known), style=None if known else "yellow")
    if report.priority_without_labels:
        named = ", ".join(report.priority_without_labels)
        console.print()
        console.print(f"deduplication.priority names {named}: no label read here is of that dataset", style="yellow")
    kept, refused = (sum(getattr(s, key) for s in report.sources) for key in ("kept", "refused"))
    unread = sum(1 for source in report.sources if source.problem)
    console.print()
    verdict = f"{kept:,} labels would be used, {refused:,} would end in errors"
    verdict += f", {unread} of {len(report.sources)} sources cannot be read" if unread else ""
    console.print(verdict, style="red" if unread else "yellow" if refused else "green")


def _print_source(console: Console, source: SourceReport) -> None:
    if source.problem is not None:
        console.print(f"{source.name}: {source.problem}", style="red")
        return
    console.print(source.name, style="bold")
    table = Table(show_header=False)
    for name, text in _facts(source).items():
        table.add_row(name, text)
    console.print(table)
    if source.repairs:
        _print_findings(console, "repaired", source, source.repairs, REPAIRS)
    if source.refusals:
        _print_findings(console, "refused", source, source.refusals, REASONS | ID_REASONS)
    if source.plan is not None:
        console.print(source.plan)


def _facts(source: SourceReport) -> dict[str, str]:
    rest = [name for name in source.columns if name not in source.mapped.values()]
    facts = {
        "rows": f"{source.rows:,}" + (f" in {source.files} file{'s' * (source.files > 1)}" if source.files else ""),
        "read": f"{source.read:,} in the area and dates, or without a place of their own",
        "used": f"{source.kept:,} ({_counts(source.kinds)})",
        "outside": f"{source.outside:,}",
        "geometry": _counts(source.geometry_types),
        "CRS": str(source.crs),
        "bounds": "–" if source.bbox_lonlat is None else ", ".join(f"{side:.5f}" for side in source.bbox_lonlat),
        "dates": "–"
        if source.installed is None
        else f"{source.installed[0]} to {source.installed[1]}, {source.dated:,} labels dated",
        "mapped": ", ".join(f"{key}: {name}" for key, name in source.mapped.items())
        + (f" (preset {source.preset})" if source.preset else ""),
        "not mapped": ", ".join(rest) or "–",
        "datasets": _counts(source.datasets),
    }
    if source.suggestions:
        facts["perhaps"] = ", ".join(f"{key}: {name}" for key, name in source.suggestions.items())
    if source.points:
        facts["points"] = ", ".join(
            f"{count:,} {sign} on {source.with_points[sign]:,} labels" for sign, count in source.points.items()
        )
    if source.h3_mismatches:
        facts["H3"] = f"{source.h3_mismatches:,} labels are not in the cell their H3 index names"
    if source.in_area_if_swapped:
        facts["axes"] = (
            f"{source.in_area_if_swapped:,} labels would touch the area with their axes swapped; "
            "say where the data set lies with `expected_bbox_lonlat`, or `axes: yx` if all are"
        )
    return facts


def _print_findings(
    console: Console, title: str, source: SourceReport, findings: dict[str, Finding], meanings: dict[str, str]
) -> None:
    table = Table(show_edge=False)
    table.add_column(title, justify="right", style="green" if title == "repaired" else "yellow")
    table.add_column("code", no_wrap=True)
    table.add_column("what")
    table.add_column("such as", overflow="fold")
    # where all ids are of one dataset, its name says nothing
    prefix = f"{next(iter(source.datasets))}/" if len(source.datasets) == 1 else ""
    for code, finding in sorted(findings.items(), key=lambda item: -item[1].count):
        what = f"{meanings[code]}: {finding.detail}" if finding.detail else meanings[code]
        such_as = ", ".join(name.removeprefix(prefix) for name in finding.examples)
        table.add_row(f"{finding.count:,}", code, what, such_as)
    console.print(table)


def _counts(counts: dict[str, int]) -> str:
    return ", ".join(f"{name} {count:,}" for name, count in sorted(counts.items(), key=lambda c: -c[1])) or "–"
