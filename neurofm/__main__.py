"""`python -m neurofm` and the `neurofm` command."""

import os
import sys

# Commands that train or embed on the CPU free and take hundreds of megabytes a step;
# with these settings glibc keeps the memory instead of returning it to the kernel page
# by page. They are read when a process starts, hence the one re-exec.
ALLOCATOR = {
    "GLIBC_TUNABLES": "glibc.malloc.hugetlb=1",
    "MALLOC_MMAP_THRESHOLD_": str(2**34),
    "MALLOC_TRIM_THRESHOLD_": str(2**36),
    "MALLOC_ARENA_MAX": "1",
}
HEAVY = {"quickstart", "pretrain", "embed", "evaluate"}
MARK = "NEUROFM_ALLOCATOR"


def main() -> None:
    """Run the command line, once more with the allocator set where that helps."""
    if (
        sys.platform == "linux"
        and HEAVY.intersection(sys.argv[1:2])
        and MARK not in os.environ
    ):
        environment = {**ALLOCATOR, **os.environ, MARK: "set"}
        os.execve(sys.executable, [sys.executable, *sys.orig_argv[1:]], environment)
    from neurofm.cli import cli

    cli()


if __name__ == "__main__":
    main()
