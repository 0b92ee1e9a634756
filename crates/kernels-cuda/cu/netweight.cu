// All kernels, one unit: what the artefacts in ../artefacts are compiled from.
#include "primitives.cuh"
#include "math.cuh"

#include "enter_heads.cu"
#include "norm.cu"
#include "rope.cu"
#include "pointwise.cu"
#include "attend_span.cu"
#include "attend_tile.cu"
#include "argmax.cu"
#include "routing.cu"
