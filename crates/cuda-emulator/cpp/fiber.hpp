// Switching between fibers: on x86-64 by hand, since swapcontext asks the kernel each time for a signal mask that nobody
// changes; elsewhere with ucontext.
#pragma once
#include <cstdint>
#include <cstdlib>

#if defined(__x86_64__)

// A stopped fiber is where its stack ends: there are the registers that a call keeps, then where it goes on.
struct Context { void *stack; };

extern "C" void netweight_switch_context(void **from, void *to);
asm(R"(
    .text
    .globl netweight_switch_context
    .type netweight_switch_context, @function
netweight_switch_context:
    pushq %rbp
    pushq %rbx
    pushq %r12
    pushq %r13
    pushq %r14
    pushq %r15
    movq %rsp, (%rdi)
    movq %rsi, %rsp
    popq %r15
    popq %r14
    popq %r13
    popq %r12
    popq %rbx
    popq %rbp
    ret
    .size netweight_switch_context, . - netweight_switch_context
)");

inline void switch_context(Context &from, Context &to) { netweight_switch_context(&from.stack, to.stack); }

inline void prepare_context(Context &context, char *stack, size_t bytes, void (*run)()) {
    // 16-byte aligned where `run` is called from, as if by a call: a return address, which nobody returns to, above it.
    auto top = reinterpret_cast<uint64_t *>((reinterpret_cast<uintptr_t>(stack) + bytes) & ~uintptr_t(15));
    *--top = 0;
    *--top = reinterpret_cast<uint64_t>(run);
    for (int i = 0; i < 6; i++) *--top = 0;
    context.stack = top;
}

// From a fiber that is never gone back to.
[[noreturn]] inline void leave_context(Context &to) {
    void *nowhere;
    netweight_switch_context(&nowhere, to.stack);
    std::abort();
}

#else
#include <ucontext.h>

struct Context { ucontext_t context; };

inline void switch_context(Context &from, Context &to) { swapcontext(&from.context, &to.context); }

inline void prepare_context(Context &context, char *stack, size_t bytes, void (*run)()) {
    getcontext(&context.context);
    context.context.uc_stack.ss_sp = stack;
    context.context.uc_stack.ss_size = bytes;
    context.context.uc_link = nullptr;
    makecontext(&context.context, run, 0);
}

[[noreturn]] inline void leave_context(Context &to) {
    setcontext(&to.context);
    std::abort();
}

#endif
