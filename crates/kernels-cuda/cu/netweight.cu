// All kernels, one unit: what the artefacts in ../artefacts are compiled from.
#include "primitives.cuh"

#include "argmax.cu"
#include "attend_span.cu"
#include "bias.cu"
#include "decode.cu"
#include "encode.cu"
#include "linear.cu"
#include "norm.cu"
#include "pointwise.cu"
#include "rope.cu"
#include "routing.cu"
#include "wide.cu"
