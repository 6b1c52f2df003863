//! Tests whose hosts are network namespaces. They need root, and fail without it.
