// What a fiber is to the processor: a stack of its own, and the registers that outlive a call.
#pragma once
#include "host/sanitizers.hpp"
#include <stddef.h>
#include <stdint.h>
#if !defined(__x86_64__)
#include <ucontext.h>
#endif

namespace emulate {
struct Context {
  void* sp = nullptr;
  uint8_t* stack = nullptr;         // none for an OS thread's own
  size_t stack_bytes = 0;
  void* tsan = nullptr;             // ThreadSanitizer's name for it
  bool ended = false;
  void* fake = nullptr;             // AddressSanitizer's side stack
#if !defined(__x86_64__)
  ucontext_t saved;
#endif
};

#if defined(__x86_64__)
// By hand, since swapcontext asks the kernel for the signal mask each time: 7 ns against 190.
extern "C" void emulate_switch(void** save_sp, void* load_sp);
asm(R"(.text
.weak emulate_switch
.type emulate_switch,@function
emulate_switch:
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
.size emulate_switch,.-emulate_switch
)");
#endif

// The first thing that a context does whenever it runs again.
inline void arrived_on(Context& to) {
#if defined(__SANITIZE_ADDRESS__)
  __sanitizer_finish_switch_fiber(to.fake, nullptr, nullptr);
#endif
  (void)to;
}

inline void switch_to(Context& from, Context& to) {
#if defined(__SANITIZE_ADDRESS__)
  __sanitizer_start_switch_fiber(&from.fake, to.stack, to.stack_bytes);
#endif
#if defined(__SANITIZE_THREAD__)
  __tsan_switch_to_fiber(to.tsan, __tsan_switch_to_fiber_no_sync);
#endif
#if defined(__x86_64__)
  emulate_switch(&from.sp, to.sp);
#else
  swapcontext(&from.saved, &to.saved);
#endif
  arrived_on(from);
}

// The next switch to it calls `entry`, which never returns.
inline void prepare(Context& c, void (*entry)()) {
#if defined(__x86_64__)
  void** top = reinterpret_cast<void**>(c.stack + c.stack_bytes);
  top[-1] = nullptr;                // entry's return address
  top[-2] = reinterpret_cast<void*>(entry);
  c.sp = top - 8;                   // below them six registers, whatever they hold
#else
  getcontext(&c.saved);
  c.saved.uc_stack.ss_sp = c.stack;
  c.saved.uc_stack.ss_size = c.stack_bytes;
  c.saved.uc_link = nullptr;
  makecontext(&c.saved, entry, 0);
#endif
  unpoison(c.stack, c.stack_bytes); // an abandoned fiber left its marks
  c.fake = nullptr;
#if defined(__SANITIZE_THREAD__)
  if (!c.ended) c.tsan = __tsan_create_fiber(0);   // an abandoned one cannot be ended: it is lost
#endif
}
}
