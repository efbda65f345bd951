// The kernels that are written for any kind of `number`. Included once for each, in a namespace where that is one of them;
// within it names that are a file's own stay apart.
namespace embed_file {
#include "embed.cu"
}
namespace add_norm_file {
#include "add_norm.cu"
}
namespace activate_file {
#include "activate.cu"
}
namespace gate_file {
#include "gate.cu"
}
namespace rotate_file {
#include "rotate.cu"
}
namespace pool_file {
#include "pool.cu"
}
