"""TPU types: names, sizes and topologies against the published tables."""

import json
import os
import subprocess
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from neurofm.errors import NeuroFMError
from neurofm.parallel.accelerators import KINDS, accelerator

# Topology, chips and hosts as the Cloud's pages of each type give them.
PUBLISHED = [
    ("v5litepod-1", "v5e:1x1", 1, 1),
    ("v5litepod-4", "v5e:2x2", 4, 1),
    ("v5litepod-8", "v5e:2x4", 8, 1),
    ("v5litepod-16", "v5e:4x4", 16, 4),
    ("v5litepod-256", "v5e:16x16", 256, 64),
    ("v6e-8", "v6e:2x4", 8, 1),
    ("v6e-32", "v6e:4x8", 32, 8),
    ("v4-8", "v4:2x2x1", 4, 1),
    ("v4-32", "v4:2x2x4", 16, 4),
    ("v4-128", "v4:4x4x4", 64, 16),
    ("v5p-8", "v5p:2x2x1", 4, 1),
    ("v5p-16", "v5p:2x2x2", 8, 2),
    ("v5p-64", "v5p:2x4x4", 32, 8),
    ("v5p-256", "v5p:4x4x8", 128, 32),
    ("v5p-512", "v5p:4x8x8", 256, 64),
    ("v5p-768", "v5p:4x8x12", 384, 96),
    ("v5p-3072", "v5p:8x12x16", 1536, 384),
    ("v5p-6912", "v5p:12x12x24", 3456, 864),
    ("v5p-12288", "v5p:16x16x24", 6144, 1536),
    ("tpu7x-8", "tpu7x:2x2x1", 4, 1),
    ("tpu7x-128", "tpu7x:4x4x4", 64, 16),
]


@pytest.mark.parametrize(("cloud", "name", "chips", "hosts"), PUBLISHED)
def test_both_names_of_a_slice_mean_the_published_one(cloud, name, chips, hosts):
    slice_ = accelerator(cloud)
    assert slice_ == accelerator(name)
    assert (slice_.cloud_name, slice_.topology_name) == (cloud, name)
    assert (slice_.chips, slice_.hosts) == (chips, hosts)
    assert slice_.is_default


def test_a_topology_that_is_no_default_has_its_hosts_but_not_the_name_alone():
    long = accelerator("v4:4x4x16")
    assert (long.chips, long.hosts, long.is_default) == (256, 64, False)
    assert accelerator(long.cloud_name).topology == (4, 8, 8)


@given(st.sampled_from(sorted(KINDS)), st.data())
def test_every_default_topology_is_found_again_by_both_names(kind, data):
    chips = data.draw(st.sampled_from(sorted(KINDS[kind].topologies)))
    shape = KINDS[kind].topologies[chips]
    by_shape = accelerator(f"{kind}:{'x'.join(map(str, shape))}")
    assert by_shape.chips == chips == by_shape.hosts * by_shape.chips_per_host
    assert accelerator(by_shape.cloud_name) == by_shape


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("v5e", "give type and topology, such as v5e:4x4"),
        ("v5e:4x5", "no v5e slice of topology 4x5: give 4x4 or 2x4"),
        ("v5e:4x4x4", "a topology of 2 numbers"),
        ("v5p:4x4", "a topology of 3 numbers"),
        ("v5p:1x2x2", "give 2x2x1"),
        ("v5litepod-17", "give v5litepod-16 or v5litepod-32"),
        ("v5p-9", "(v5p counts cores): give v5p-8 or v5p-16"),
        ("v5lite-16", "'v5lite-16': there is no TPU type 'v5lite': give v5litepod"),
        ("v7e:2x2", "there is no TPU type 'v7e': give v6e"),
        ("v5e:4x4\n", "is not a TPU slice"),
    ],
)
def test_a_slice_that_cannot_be_had_is_refused_with_the_nearest(name, words):
    with pytest.raises(NeuroFMError) as refused:
        accelerator(name)
    assert words in str(refused.value)


def test_libtpu_counts_the_same_chips_and_hosts():
    pytest.importorskip("libtpu", reason="libtpu knows the slices; Linux x86-64 only")
    names = "v4:2x2x4 v5e:1x1 v5e:2x4 v5e:4x4 v5p:2x2x2 v6e:1x1 v6e:2x4 tpu7x:2x2x2"
    program = f"""
import json
from jax.experimental import topologies
from neurofm.parallel.accelerators import accelerator
told = {{}}
for name in {names.split()!r}:
    slice_ = accelerator(name)
    found = topologies.get_topology_desc(
        slice_.topology_name, platform="tpu", **slice_.topology_options
    ).devices
    told[name] = len(found), len({{d.process_index for d in found}})
print(json.dumps(told))
"""
    environment = os.environ | {"JAX_PLATFORMS": "cpu", "TPU_SKIP_MDS_QUERY": "1"}
    environment |= {"ALLOW_MULTIPLE_LIBTPU_LOAD": "1"}
    done = subprocess.run(
        [sys.executable, "-c", program], env=environment, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr[-2000:]
    told = json.loads(done.stdout.splitlines()[-1])
    ours = {n: [accelerator(n).devices, accelerator(n).hosts] for n in names.split()}
    assert told == ours
