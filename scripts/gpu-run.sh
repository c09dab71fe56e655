#!/usr/bin/env bash
# Runs on a GPU machine without Node and network: joins and unpacks the bundle that lies beside this file, builds the CUDA
# flavour against that machine's python3 torch, runs the parity tests on the GPU and the benchmarks, and leaves JSONL.
#   bash run.sh [--unpack-only]
# OUT: folder for the results (default ./gpu-results). CFT_GPU_WORK: where to unpack (default work, beside this file).
set -euo pipefail
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
work=${CFT_GPU_WORK:-$here/work}
mkdir -p "${OUT:-gpu-results}"
out=$(cd "${OUT:-gpu-results}" && pwd)

python3 - "$here" "$work" <<'PYTHON'
import hashlib, json, os, shutil, sys, tarfile
here, work = sys.argv[1:]
with open(os.path.join(here, "manifest.json")) as file:
    manifest = json.load(file)
stamp = os.path.join(work, "unpacked.json")
if os.path.exists(stamp) and json.load(open(stamp)) == manifest:
    sys.exit(0)  # a second run on the same machine
shutil.rmtree(work, ignore_errors=True)
os.makedirs(work)
joined = os.path.join(work, "joined.tar.xz")
with open(joined, "wb") as out:
    for part in manifest["parts"]:
        path = os.path.join(here, part["name"])
        if not os.path.exists(path):
            sys.exit(f"{part['name']} of {len(manifest['parts'])} parts is missing beside run.sh: bring all of them")
        with open(path, "rb") as file:
            data = file.read()
        if hashlib.sha256(data).hexdigest() != part["sha256"]:
            sys.exit(f"{part['name']} is damaged: {part['bytes']} bytes expected, {len(data)} found, or others")
        out.write(data)
with tarfile.open(joined) as archive:
    archive.extractall(work, **({"filter": "data"} if hasattr(tarfile, "data_filter") else {}))
os.remove(joined)
with open(stamp, "w") as file:
    json.dump(manifest, file)
PYTHON
chmod +x "$work/node/bin/node"
export PATH="$work/node/bin:$PATH" CFT_DATA_DIR="$work/data" CFT_CACHE_DIR="$work/cache" CFT_SKIP_DOWNLOAD=1
echo "unpacked into $work: Node $(node --version), commit $(python3 -c "import json; print(json.load(open('$here/manifest.json'))['commit'])")"
[ "${1:-}" = --unpack-only ] && exit 0
cd "$work/cft-native"
exec node scripts/gpu-run.mjs "$out" "$here/manifest.json"
