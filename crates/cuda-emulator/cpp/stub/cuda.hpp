// What the stub of cuBLAS asks of the stub of the driver.
#pragma once
#include <functional>
#include <string>

// 0 where a call may go on, or the error that it returns.
int netweight_stub_enter(const char *name, bool needs_context, const std::string &detail);
// Does work that was issued to a stream, or keeps it for the graph that is captured.
int netweight_stub_submit(void *stream, std::function<int()> work);
