// Fibers, and the launch that Rust calls. Goes in: a kernel's name, its grid, the bytes of its parameter. All kernels
// are in this one unit: see the includes at its end.
#include <algorithm>
#include <cstdio>
#include <memory>
#include <random>
#include <string>
#include <vector>

#include "fiber.hpp"
#include "primitives.cuh"

namespace emulator {

thread_local u32 current_thread, current_threads, current_block[3], current_grid[3];
thread_local void *dynamic_shared;

namespace {

struct Kernel {
    const char *name;
    u32 threads;
    size_t args_bytes;
    void (*run)(const void *);
};

std::vector<Kernel> &kernels() {
    static std::vector<Kernel> all;
    return all;
}

enum class State { Ready, AtBarrier, AtExchange, Done };

constexpr size_t STACK_BYTES = 256 * 1024;

struct Fiber {
    Context context;
    State state;
};

struct Warp {
    Posted posted[2][32];  // by turn: a lane may post for the next exchange while others still read this one
    u32 turn[32];
    u32 n_waiting;
};

// One block in progress.
struct Block {
    std::vector<Fiber> fibers;
    std::vector<Warp> warps;
    std::vector<std::unique_ptr<char[]>> stacks;
    Context scheduler;
    u32 n_at_barrier, n_done;
    void (*run)(const void *);
    const void *args;
};

thread_local Block block;

void wait(State state) {
    Fiber &fiber = block.fibers[current_thread];
    fiber.state = state;
    switch_context(fiber.context, block.scheduler);
}

void fiber_main() {
    block.run(block.args);
    block.fibers[current_thread].state = State::Done;
    block.n_done++;
    leave_context(block.scheduler);
}

void prepare(u32 threads) {
    block.fibers.resize(threads);
    block.warps.resize((threads + 31) / 32);
    while (block.stacks.size() < threads) block.stacks.emplace_back(new char[STACK_BYTES]);
    for (Warp &warp : block.warps) warp.n_waiting = 0, std::memset(warp.turn, 0, sizeof warp.turn);
    block.n_at_barrier = block.n_done = 0;
    for (u32 idx = 0; idx < threads; idx++) {
        Fiber &fiber = block.fibers[idx];
        prepare_context(fiber.context, block.stacks[idx].get(), STACK_BYTES, fiber_main);
        fiber.state = State::Ready;
    }
}

// Gives every fiber that can go on its turn, again and again; false where none can and some have not ended.
bool run_block(u32 threads, u64 order, std::mt19937_64 &random) {
    prepare(threads);
    std::vector<u32> turns(threads);
    for (u32 idx = 0; idx < threads; idx++) turns[idx] = order == 1 ? threads - 1 - idx : idx;
    while (block.n_done < threads) {
        if (order >= 2) std::shuffle(turns.begin(), turns.end(), random);
        bool any = false;
        for (u32 idx : turns) {
            if (block.fibers[idx].state != State::Ready) continue;
            any = true;
            current_thread = idx;
            switch_context(block.scheduler, block.fibers[idx].context);
        }
        if (!any) return false;
    }
    return true;
}

}  // namespace

void sync_threads() {
    const u32 threads = u32(block.fibers.size());
    if (++block.n_at_barrier == threads) {
        block.n_at_barrier = 0;
        for (Fiber &fiber : block.fibers) fiber.state = State::Ready;
    } else {
        wait(State::AtBarrier);
    }
}

const Posted *exchange(const Posted &posted) {
    const u32 lane = current_thread & 31;
    Warp &warp = block.warps[current_thread / 32];
    const u32 turn = warp.turn[lane]++ & 1;
    warp.posted[turn][lane] = posted;
    if (++warp.n_waiting == 32) {
        warp.n_waiting = 0;
        const u32 first = current_thread - lane;
        for (u32 idx = first; idx < first + 32; idx++) block.fibers[idx].state = State::Ready;
    } else {
        wait(State::AtExchange);
    }
    return warp.posted[turn];
}

Registration::Registration(const char *name, u32 threads, size_t args_bytes, void (*run)(const void *)) {
    kernels().push_back({name, threads, args_bytes, run});
}

// In the exponents of an f32, off by 112, which the product corrects, for subnormal numbers too.
float f32_of_f16(u16 value) {
    const u32 magnitude = u32(value & 0x7fff) << 13, sign = u32(value & 0x8000) << 16;
    const bool is_finite = (value & 0x7c00) != 0x7c00;
    return float_of(sign | (is_finite ? bits_of(float_of(magnitude) * 0x1p112f) : magnitude | 0x7f800000));
}

u16 f16_of_f32(float value) {
    if (value != value) return 0x7fff;
    const _Float16 half = _Float16(value);
    u16 bits;
    std::memcpy(&bits, &half, 2);
    return bits;
}

}  // namespace emulator

// Runs a kernel to its end. `order`: 0 threads take turns ascending, 1 descending, from 2 on at random, the seed being
// `order`; blocks too. 0, or a message in `error`.
extern "C" int netweight_emulator_launch(const char *name, const u32 grid[3], u32 threads, u32 shared_bytes,
                                         const void *args, size_t args_bytes, u64 order, char *error,
                                         size_t error_bytes) {
    using namespace emulator;
    const auto fail = [&](const std::string &what) {
        std::snprintf(error, error_bytes, "%s: %s", name, what.c_str());
        return 1;
    };
    const Kernel *kernel = nullptr;
    for (const Kernel &each : kernels()) if (std::string(each.name) == name) kernel = &each;
    if (!kernel) return fail("no such kernel");
    if (kernel->args_bytes != args_bytes)
        return fail("its parameter has " + std::to_string(kernel->args_bytes) + " bytes, not " + std::to_string(args_bytes));
    if (threads == 0 || threads > kernel->threads || threads % 32 != 0)
        return fail("blocks of " + std::to_string(threads) + " threads; at most " + std::to_string(kernel->threads));
    const u64 n_blocks = u64(grid[0]) * grid[1] * grid[2];
    if (n_blocks == 0 || grid[1] > 65535 || grid[2] > 65535 || grid[0] > 0x7fffffff) return fail("a grid that no GPU takes");
    // Right-aligned in its own allocation would be better still; NaNs show what was read before it was written.
    std::vector<U32x4> memory((shared_bytes + 15) / 16 + 1);
    std::mt19937_64 random(order);
    std::memcpy(current_grid, grid, sizeof current_grid);
    current_threads = threads;
    dynamic_shared = memory.data();
    block.run = kernel->run, block.args = args;
    std::vector<u64> turns(n_blocks);
    for (u64 idx = 0; idx < n_blocks; idx++) turns[idx] = order == 1 ? n_blocks - 1 - idx : idx;
    if (order >= 2) std::shuffle(turns.begin(), turns.end(), random);
    for (u64 idx : turns) {
        std::memset(memory.data(), 0xff, memory.size() * sizeof(U32x4));
        current_block[0] = u32(idx % grid[0]);
        current_block[1] = u32(idx / grid[0] % grid[1]);
        current_block[2] = u32(idx / grid[0] / grid[1]);
        if (!run_block(threads, order, random)) return fail("threads wait for each other for ever");
    }
    return 0;
}

// Bytes of a kernel's parameter; 0 where there is no such kernel.
extern "C" size_t netweight_emulator_args_bytes(const char *name) {
    for (const emulator::Kernel &kernel : emulator::kernels()) if (std::string(kernel.name) == name) return kernel.args_bytes;
    return 0;
}

#include "netweight.cu"
