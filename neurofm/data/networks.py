"""Which network every region of an atlas belongs to.

Shipped: the seven cortical networks of Yeo et al. (2011) as the names of Schaefer et
al.'s parcels (2018) tell them, the subcortex (Tian et al., 2020) and the cerebellum
(Buckner et al., 2011) as one network each. Any other atlas brings a table, or has a
network a region.
"""

import re
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from neurofm.errors import NeuroFMError

CORTICAL = ("Vis", "SomMot", "DorsAttn", "SalVentAttn", "Limbic", "Cont", "Default")
SUBCORTEX, CEREBELLUM = "Subcortex", "Cerebellum"
NAMES = (*CORTICAL, SUBCORTEX, CEREBELLUM)

# Parcels of Schaefer-400 in its 7-network order: each hemisphere in blocks of CORTICAL.
_LEFT, _RIGHT = (31, 37, 23, 22, 13, 22, 52), (30, 40, 23, 25, 13, 30, 39)
_TIAN_S3, _BUCKNER_7 = 50, 7

PUBLISHED: tuple[int, ...] = (
    *(i for i, n in enumerate(_LEFT) for _ in range(n)),
    *(i for i, n in enumerate(_RIGHT) for _ in range(n)),
    *(7 for _ in range(_TIAN_S3)),
    *(8 for _ in range(_BUCKNER_7)),
)

_PATTERNS = (
    (re.compile(rf"(?:^|_)[LR]H_({'|'.join(CORTICAL)})(?:_|$)"), None),
    (re.compile(r"(?:HIP|AMY|THA|NAc|GP|PUT|CAU)(?:-.*)?-[lr]h$"), SUBCORTEX),
    (re.compile(r"(?i)cerebell|buckner"), CEREBELLUM),
)


def told_by(region: str) -> str | None:
    """The network that a region's published name tells, or None."""
    for pattern, network in _PATTERNS:
        if found := pattern.search(region):
            return network or found[1]
    return None


def table(source: str, regions: Sequence[str]) -> tuple[tuple[str, ...], list[int]]:
    """Names of the networks, and which of them each region belongs to.

    Args:
      source: `names`, as the regions' published names tell;
        `schaefer400-tian3-buckner7`, by place, for 457 regions in that order;
        `regions`, a network each; or the path of a TSV with the columns `region` and
        `network`.
      regions: names, in order.

    Raises:
      NeuroFMError: a region is left without a network.
    """
    if source == "regions":
        return tuple(regions), list(range(len(regions)))
    if source == "schaefer400-tian3-buckner7":
        return NAMES, _by_place(regions)
    if source == "names":
        known = {region: told_by(region) for region in regions}
        order = NAMES
        remedy = (
            "give task.networks=FILE.tsv with the columns region and network, or "
            "task.networks=regions"
        )
    else:
        known = dict(read_tsv(Path(source)))
        order = tuple(dict.fromkeys(known[r] for r in regions if known.get(r)))
        remedy = f"add them to {source}"
    if without := [region for region in regions if not known.get(region)]:
        raise NeuroFMError(
            f"{len(without)} of {len(regions)} regions have no known network (the "
            f"first is {without[0]!r}): {remedy}"
        )
    used = {known[region] for region in regions}
    names = tuple(name for name in order if name in used)
    return names, [names.index(str(known[region])) for region in regions]


def _by_place(regions: Sequence[str]) -> list[int]:
    """The published order, which names must not contradict."""
    if len(regions) != len(PUBLISHED):
        raise NeuroFMError(
            f"there are {len(regions)} regions, Schaefer-400, Tian-S3 and Buckner-7 "
            f"have {len(PUBLISHED)} together: give task.networks=names, or a TSV"
        )
    for place, (region, network) in enumerate(zip(regions, PUBLISHED, strict=True)):
        if (told := told_by(region)) and told != NAMES[network]:
            raise NeuroFMError(
                f"region {place + 1}, {region!r}, is of the network {told} where the "
                f"published order has {NAMES[network]}: give task.networks=names"
            )
    return list(PUBLISHED)


def read_tsv(path: Path) -> list[tuple[str, str]]:
    """Region and network, a row each.

    Raises:
      NeuroFMError: no such file, other columns, or a region twice.
    """
    try:
        lines = path.read_text(encoding="utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise NeuroFMError(
            f"the table of networks {path} cannot be read ({error}): give a TSV with "
            "the columns region and network"
        ) from error
    rows = [line.split("\t") for line in lines if line.strip()]
    header = [cell.strip() for cell in rows[0]] if rows else []
    if not {"region", "network"} <= set(header) or any(
        len(row) != len(header) for row in rows
    ):
        raise NeuroFMError(
            f"{path} has the columns {header or 'none'}, or rows of other lengths: "
            "give a TSV with the columns region and network"
        )
    columns = header.index("region"), header.index("network")
    pairs = [(row[columns[0]].strip(), row[columns[1]].strip()) for row in rows[1:]]
    counts = Counter(region for region, _ in pairs)
    if twice := [region for region, n in counts.items() if n > 1]:
        raise NeuroFMError(f"{path} names the region {twice[0]!r} twice: name it once")
    return pairs
