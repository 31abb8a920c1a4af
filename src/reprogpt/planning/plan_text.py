"""A plan (plan.py) as text for the terminal, at most 100 columns wide."""

from collections.abc import Iterator
from typing import Any


def summary(plan: dict[str, Any]) -> list[str]:
    """The run, its price, and the warnings: of these `make repro` shows the first three lines."""
    memory, disk = (sum(plan[key].values()) for key in ("memory_bytes", "disk_bytes"))
    epochs = (f", {plan['epochs']:.4g} epochs of {'' if plan['counted'] else 'about '}"
              f"{human(plan['train_tokens'])}" if plan["epochs"] is not None else "")
    length = (f"at most {plan['max_seconds']:g} s or" if plan["max_seconds"] else
              f"{plan['steps']:,} steps,")
    return [f"plan of {plan['preset']}: {human(sum(plan['parameters'].values()))} parameters, "
            f"{length} {human(plan['tokens'])} tokens{epochs}",
            f"training {duration(plan['hours_on_one']['H200'])} on one H200 (make plan MEASURE=1: "
            f"here), {human(memory, 'B')} of GPU memory; disk {human(disk, 'B')}",
            *(f"warning: {text}" for text in plan["warnings"])]


def page(plan: dict[str, Any], rate: float | None = None) -> str:
    """All of a plan. ``rate``: dollars an hour of one GPU, for a column with the price."""
    return "\n".join([*summary(plan), "", *parts_table(plan), "", *_bytes(plan), "",
                      *_hours(plan, rate)])


def parts_table(plan: dict[str, Any]) -> Iterator[str]:
    """Parameters and FLOPs by part of the model: the lecture's accounting."""
    count, flops = sum(plan["parameters"].values()), sum(plan["flops_per_token"].values())
    yield f"{'part':<20}{'parameters':>13}{'share':>8}{'FLOPs a token':>16}{'share':>8}"
    for part in dict.fromkeys([*plan["parameters"], *plan["flops_per_token"]]):
        own, cost = plan["parameters"].get(part, 0), plan["flops_per_token"].get(part, 0)
        left = f"{own:>13,}{own / count:>8.1%}" if own else " " * 21
        right = f"{human(cost):>16}{cost / flops:>8.1%}" if cost else ""
        if own or cost:
            yield f"{part:<20}{left}{right}"
    yield f"{'total':<20}{count:>13,}{'':>8}{human(flops):>16}"


def human(value: float, unit: str = "") -> str:
    """Three digits and a decimal prefix: 124439808 -> "124M"; 3.1e9 and B -> "3.1 GB"."""
    prefixes = ["", "k", "M", "G" if unit else "B", "T", "P", "E", "Z", "Y"]
    while value >= 999.5 and len(prefixes) > 1:
        value, prefixes = value / 1000, prefixes[1:]
    return f"{value:.3g}{' ' if unit else ''}{prefixes[0]}{unit}"


def duration(hours: float) -> str:
    """Start-up and kernel launches are not estimated, so that less than a minute is not told."""
    if hours < 1 / 60:
        return "< 1 min"
    if hours < 1:
        return f"{hours * 60:.0f} min"
    return f"{hours:.1f} h" if hours < 48 else f"{hours / 24:,.0f} days"


def _bytes(plan: dict[str, Any]) -> Iterator[str]:
    free = human(plan["disk_free_bytes"], "B")
    for title, parts in (
            (f"memory, micro-batch {plan['micro_batch']} (auto: less if needed)",
             plan["memory_bytes"]),
            (f"disk, DVC's cache included ({free} free)", plan["disk_bytes"])):
        yield f"{title:<50}{human(sum(parts.values()), 'B'):>10}"
        yield "  " + ", ".join(f"{part} {human(n, 'B')}" for part, n in parts.items())


def _hours(plan: dict[str, Any], rate: float | None) -> Iterator[str]:
    price = f"{f'at {rate:g} $/h':>16}" if rate else ""
    yield f"{'training, assumed MFU':<28}{'one':>12}{'eight':>12}{price}"
    for gpu, hours in plan["hours_on_one"].items():
        cost = f"{f'{rate * hours:,.2f} $':>16}" if rate else ""
        yield (f"{gpu:<18}{plan['mfu'][gpu]:>10.0%}{duration(hours):>12}{duration(hours / 8):>12}"
               f"{cost}")
    if speed := plan["tokens_per_second"]:
        seconds = plan["tokens"] / speed
        took = f"{seconds:.0f} s" if seconds < 600 else duration(seconds / 3600)
        yield f"{'this machine, measured':<28}{took:>12}  {speed:,.0f} tokens/s, one process"
        if plan["load"] > plan["cores"] / 2:
            yield (f"  measured while other programs ran (load {plan['load']:.1f} on "
                   f"{plan['cores']} cores): faster when they have ended")
