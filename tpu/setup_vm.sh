#!/usr/bin/env bash
# Makes a worker ready: unpacks the code and installs it. Doing it again does nothing.
#
#   setup_vm.sh TREE     with ~/neurofm-launch-TREE.tar beside it
#
# The code goes to ~/neurofm-launch/TREE and its packages to ~/neurofm-launch/venv-TREE.
# NEUROFM_EXTRA names the extra to install (default tpu); empty installs no packages.
set -eu

tree=$1
home=${NEUROFM_LAUNCH_HOME:-$HOME/neurofm-launch}
archive=$HOME/neurofm-launch-$tree.tar
extra=${NEUROFM_EXTRA-tpu}
mkdir -p "$home"
exec 8>"$home/setup"
flock 8

if [ ! -d "$home/$tree" ]; then
  draft=$(mktemp -d "$home/.unpacking.XXXXXX")
  tar -xf "$archive" -C "$draft"
  mv "$draft" "$home/$tree"
fi
rm -f "$archive"

if [ -n "$extra" ] && [ ! -f "$home/venv-$tree/ready" ]; then
  # The VMs' own Python may be older than 3.11; uv brings one.
  python3 -m venv "$home/uv" && "$home/uv/bin/pip" install --quiet uv
  "$home/uv/bin/uv" venv --quiet --allow-existing --python '>=3.11' "$home/venv-$tree"
  "$home/uv/bin/uv" pip install --quiet --python "$home/venv-$tree/bin/python" \
    "$home/$tree[$extra]"
  touch "$home/venv-$tree/ready"
fi
echo "neurofm-worker: $tree is ready"
