#!/usr/bin/env bash
# Checks the CUDA backend on a machine with a GPU, which needs neither Rust nor a network, in less than eight minutes.
#
#   tools/gpu-check.sh --build FOLDER   on the machine that builds: puts test programs, and netweight, into FOLDER
#   tools/gpu-check.sh FOLDER           on the machine with the GPU: tests, sanitizer, timings, and a table at the end
#   tools/gpu-check.sh --rehearse       both here, on emulated kernels under a stub of the driver: timings mean nothing
#
# FOLDER holds this script, tests/ (programs made by `cargo test --no-run`), netweight (the program, if it was built, or
# what NETWEIGHT names) and models/ (what it is timed on, beside a random model, if anything). Exit status 0 where nothing
# failed. What is not there is skipped, and the table says so. GPU_CHECK_SECONDS bounds all of it (450); timings come last,
# with at least GPU_CHECK_TIMINGS (210) of them left.
set -uo pipefail
HERE="$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)"

build() {
    set -e
    local folder="$1" root="$HERE/.." path
    rm -rf "$folder/tests"
    mkdir -p "$folder/tests"
    cd "$root"
    "$HERE/build-cuda-kernels.py" --stale # A real GPU runs the artefacts, and not the sources.
    cargo test --no-run --message-format=json -p netweight-kernels-cuda ${GPU_CHECK_PACKAGES:-} |
        python3 -c '
import json, sys
for line in sys.stdin:
    message = json.loads(line) if line.startswith("{") else {}
    if message.get("executable") and message.get("profile", {}).get("test"):
        print(message["executable"], message["target"]["name"])
    if message.get("reason") == "build-script-executed" and "cuda-emulator" in message["package_id"]:
        print(message["out_dir"] + "/stubs", "stubs")' |
        while read -r path name; do
            if [ "$name" = stubs ]; then
                echo "$path" >"$folder/stubs.txt"
                continue
            fi
            cp "$path" "$folder/tests/$name"
            strip --strip-debug "$folder/tests/$name" 2>/dev/null || true
        done
    path="${NETWEIGHT:-${CARGO_TARGET_DIR:-$root/target}/release/netweight}"
    # A rehearsal times nothing that counts: any program will do.
    [ -x "$path" ] || [ -z "${REHEARSAL:-}" ] || path="${CARGO_TARGET_DIR:-$root/target}/debug/netweight"
    if [ -x "$path" ]; then cp "$path" "$folder/netweight"; else echo "no $path: there will be no timings of models"; fi
    cp "$HERE/gpu-check.sh" "$folder/"
    echo "in $folder: $(ls "$folder/tests" | tr '\n' ' ')"
    # An older machine may lack what these need of the C library.
    for path in "$folder"/tests/* "$folder/netweight"; do
        { objdump -T "$path" 2>/dev/null | grep -o 'GLIBC_[0-9.]*'; } || true
    done | sort -uV | tail -1 | sed 's/^/needs /'
}

table=()
failed=0
slack="${REHEARSAL:+8}" # A rehearsal is about what works: however busy the machine, there is time for it.
end=$((SECONDS + ${GPU_CHECK_SECONDS:-450} * ${slack:-1}))

row() { # row WHAT RESULT
    table+=("$(printf '%-52s %s' "$1" "$2")")
    printf '=== %s: %s\n' "$1" "$2"
}

# run NAME LIMIT COMMAND...: a row with how it ended. What it prints goes to the log, and its end here if it failed.
run() {
    local name="$1" limit="$(($2 * ${slack:-1}))" begin=$SECONDS status left=$((end - SECONDS))
    shift 2
    [ "$left" -lt "$limit" ] && limit=$left
    : >"$LOG"
    if [ "$limit" -lt 5 ]; then
        row "$name" 'skipped: no time left'
        return 0
    fi
    printf '\n=== %s\n' "$name"
    timeout -k 5 "$limit" "$@" >"$LOG" 2>&1
    status=$?
    cat "$LOG" >>"$LOGS/all.log"
    if [ "$status" = 0 ]; then
        row "$name" "ok, $((SECONDS - begin)) s$(note)"
    else
        tail -60 "$LOG"
        [ "$status" = 124 ] && row "$name" "FAILED: not done after $limit s" || row "$name" "FAILED: status $status"
        failed=1
    fi
    return "$status"
}

# Of a log: how many tests passed, how often one said that it skipped, what a sanitizer says last.
note() {
    local passed skipped summary
    skipped=$(grep -c 'skipped: ' "$LOG")
    passed=$(sed -n 's/^test result: ok\. \([0-9]*\) passed.*/\1 tests/p' "$LOG" | tail -1)
    summary=$(sed -n 's/^=* *\(ERROR SUMMARY: .*\|RACECHECK SUMMARY: .*\)/\1/p' "$LOG" | tail -1)
    [ "$skipped" = 0 ] && skipped=''
    printf '%s%s%s' "${passed:+, $passed}" "${skipped:+, $skipped skipped}" "${summary:+, $summary}"
}

machine() {
    if command -v nvidia-smi >/dev/null; then
        nvidia-smi --query-gpu=name,compute_cap,driver_version,memory.total,clocks.max.mem,power.limit --format=csv
        nvidia-smi | sed -n 's/.*\(CUDA Version: [0-9.]*\).*/\1/p'
    else
        echo 'no nvidia-smi'
    fi
    python3 -c 'import torch; print("torch", torch.__version__, "CUDA", torch.version.cuda)' 2>/dev/null
}

# cuBLAS is looked for as libcublas.so and libcublas.so.12; torch brings one, which may have another name.
find_cublas() {
    local library
    ldconfig -p 2>/dev/null | grep -q 'libcublas\.so\(\.12\)\? ' && return 0
    library=$(python3 - <<'PYTHON' 2>/dev/null
import glob, os, site, sysconfig
folders = site.getsitepackages() + [sysconfig.get_paths()["purelib"]]
patterns = ["nvidia/cublas/lib/libcublas.so.*", "nvidia/cu1*/lib/libcublas.so.*", "torch/lib/libcublas.so.*"]
found = [path for folder in folders for pattern in patterns for path in glob.glob(os.path.join(folder, pattern))]
found += glob.glob("/usr/local/cuda*/lib64/libcublas.so*")
print(found[0] if found else "")
PYTHON
    )
    [ -n "$library" ] || return 1
    mkdir -p "$LOGS/libraries"
    ln -sf "$library" "$LOGS/libraries/libcublas.so"
    export LD_LIBRARY_PATH="$LOGS/libraries:$(dirname "$library")${LD_LIBRARY_PATH:+:$LD_LIBRARY_PATH}"
}

device_tests() {
    local program
    for program in "$FOLDER"/tests/*; do
        [ -x "$program" ] || continue
        run "test $(basename "$program")" 120 "$program" --test-threads=1 --nocapture
    done
    # What newer GPUs get is compiled by the driver, which must be new enough for that.
    if [ -x "$FOLDER/tests/norm" ]; then
        NETWEIGHT_CUDA_IMAGE=compute_80.ptx run 'test norm, from PTX' 60 "$FOLDER/tests/norm" --test-threads=1 --nocapture
    fi
}

sanitizer() {
    local found tool program end=$((end - ${GPU_CHECK_TIMINGS:-210})) # what `run` goes by: timings come after
    found=$(command -v compute-sanitizer || ls /usr/local/cuda*/bin/compute-sanitizer 2>/dev/null | tail -1)
    if [ -n "${REHEARSAL:-}" ] || [ -z "$found" ]; then
        row 'compute-sanitizer' 'skipped: it is not here'
        return
    fi
    for tool in memcheck racecheck synccheck; do
        for program in "$FOLDER"/tests/*; do
            # The driver's own test makes mistakes on purpose.
            case "$(basename "$program")" in netweight_* | driver) continue ;; esac
            run "$tool $(basename "$program")" 60 "$found" --tool "$tool" --error-exitcode 9 \
                "$program" --test-threads=1 --nocapture
        done
    done
}

# What the card can do at all: the yardstick for the timings of models.
bandwidth() {
    python3 - <<'PYTHON'
import sys
import torch
if not torch.cuda.is_available():
    sys.exit("torch finds no GPU")
def best(work, n_bytes, rounds=20):
    work(); torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        work()
    times = []
    for _ in range(rounds):
        begin, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
        begin.record(); graph.replay(); end.record(); end.synchronize()
        times.append(begin.elapsed_time(end) / 1e3)
    return n_bytes / sorted(times)[len(times) // 2] / 1e9
x = torch.zeros(1 << 28, dtype=torch.bfloat16, device="cuda")
y = torch.empty_like(x)
print(f"timing copy_GB/s {best(lambda: y.copy_(x), 2 * x.nbytes):.0f}")
for rows, cols in [(4096, 4096), (14336, 4096), (4096, 14336), (128256, 4096)]:
    w = torch.randn(rows, cols, dtype=torch.bfloat16, device="cuda")
    v = torch.randn(cols, 1, dtype=torch.bfloat16, device="cuda")
    print(f"timing cuBLAS_bf16_{rows}x{cols}_batch_1_GB/s {best(lambda: torch.mm(w, v), w.nbytes):.0f}")
PYTHON
}

# bench NAME LIMIT FLAGS...: what it prints stands at the end, above the table.
bench() {
    local name="$1" limit="$2"
    shift 2
    if run "$name" "$limit" "$FOLDER/netweight" bench "$@" --device cuda; then
        # Nothing in the log: there was no time left.
        [ -s "$LOG" ] && { printf '\n=== %s\n' "$name"; cat "$LOG"; } >>"$LOGS/reports.txt"
    fi
}

timings() {
    local model
    if [ -n "${REHEARSAL:-}" ]; then
        row 'bandwidth, by torch' 'skipped: a rehearsal'
    elif ! python3 -c 'import torch' 2>/dev/null; then
        row 'bandwidth, by torch' 'skipped: no torch'
    elif run 'bandwidth, by torch' 60 "${bandwidth_program[@]}"; then
        while read -r _ what value; do row "  $what" "$value"; done < <(grep '^timing ' "$LOG")
    fi
    if [ ! -x "$FOLDER/netweight" ]; then
        row 'netweight bench --device cuda' 'skipped: no netweight in the folder'
        return
    fi
    export XDG_CACHE_HOME="$LOGS/cache" # nothing is known of this GPU
    if [ -n "${REHEARSAL:-}" ]; then
        bench 'bench --kernels, tiny' 60 --kernels --matrix 256x512 --tokens 1,9 --prompt 80 --rounds 1
        bench 'bench --random llama-tiny' 120 --random llama-tiny --prompt 70 --generate 2 --batch 1,2 --rounds 1
        return
    fi
    bench 'bench --kernels' 90 --kernels
    bench 'bench --random llama-8b' 120 --random llama-8b
    for model in "$FOLDER"/models/*/; do
        [ -d "$model" ] && bench "bench $(basename "$model")" 90 "$model"
    done
}

check() {
    FOLDER="$(cd "$1" && pwd)"
    LOGS="$(mktemp -d)"
    LOG="$LOGS/last.log"
    export RUST_BACKTRACE=1 REQUIRE_GPU=1 NETWEIGHT_TEST_DEVICES=gpu
    # `timeout` runs programs, not functions.
    { declare -f bandwidth; echo bandwidth; } >"$LOGS/bandwidth.sh"
    bandwidth_program=("bash" "$LOGS/bandwidth.sh")
    machine
    { [ -n "${REHEARSAL:-}" ] || find_cublas; } && row 'cuBLAS' 'found' || row 'cuBLAS' 'skipped: it is not here'
    device_tests
    sanitizer
    timings
    [ ! -e "$LOGS/reports.txt" ] || cat "$LOGS/reports.txt"
    printf '\n'
    machine | head -3
    printf '%s\n' "${table[@]}"
    printf '\n%s, %d s; all that was printed: %s\n' "$([ "$failed" = 0 ] && echo 'nothing failed' || echo 'FAILED')" \
        "$SECONDS" "$LOGS/all.log"
    return "$failed"
}

rehearse() {
    local folder stubs status
    folder="$(mktemp -d)"
    (REHEARSAL=1 build "$folder") || return 1
    stubs="$(cat "$folder/stubs.txt")"
    LD_LIBRARY_PATH="$stubs/driver:$stubs/blas" REHEARSAL=1 check "$folder"
    status=$?
    rm -rf "$folder"
    return "$status"
}

case "${1:-}" in
--rehearse) rehearse ;;
--build) build "${2:?a folder}" ;;
'' | -*) sed -n '2,12s/^# \{0,1\}//p' "${BASH_SOURCE[0]}" && exit 2 ;;
*) check "$1" ;;
esac
