//! One function for each fuzz target: takes any bytes, and panics when a promise is broken.
#![forbid(unsafe_code)]

mod client_hello;
mod host;
mod http1;
mod path;

pub use client_hello::client_hello;
pub use headwater_admission::fuzz as admission_review;
pub use headwater_bfd::fuzz as bfd_session;
pub use headwater_bgp::fuzz as bgp_session;
pub use headwater_client_address::fuzz::{proxy_header, request as forwarding_headers};
pub use headwater_kube_io::fuzz_read as manifests;
pub use headwater_l2::frame::fuzz_router_advertisement as router_advertisement;
pub use headwater_l2::fuzz as neighbour_frame;
pub use headwater_netlink::fuzz as conntrack_decode;
pub use headwater_nft::fuzz as netlink_decode;
pub use headwater_trace::fuzz as trace_context;
pub use host::host;
pub use http1::{http1_chunked, http1_request, http1_response};
pub use path::path;

/// A fuzz target.
pub type Target = fn(&[u8]);

/// Every target, by the name of its binary and of its corpus.
pub const TARGETS: &[(&str, Target)] = &[
    ("admission_review", admission_review),
    ("bfd_session", bfd_session),
    ("bgp_session", bgp_session),
    ("client_hello", client_hello),
    ("conntrack_decode", conntrack_decode),
    ("forwarded", forwarded),
    ("forwarding_headers", forwarding_headers),
    ("host", host),
    ("http1_chunked", http1_chunked),
    ("http1_request", http1_request),
    ("http1_response", http1_response),
    ("manifests", manifests),
    ("neighbour_frame", neighbour_frame),
    ("netlink_decode", netlink_decode),
    ("path", path),
    ("proxy_header", proxy_header),
    ("router_advertisement", router_advertisement),
    ("trace_context", trace_context),
    ("x_forwarded_for", x_forwarded_for),
];

/// Each line of the input is a line of `X-Forwarded-For`; the whole of it is an entry, too.
pub fn x_forwarded_for(bytes: &[u8]) {
    headwater_client_address::fuzz::entry(bytes);
    forwarding_headers(&lines_of("x-forwarded-for", bytes));
}

/// Each line of the input is a line of `Forwarded`; the whole of it is an element, too.
pub fn forwarded(bytes: &[u8]) {
    headwater_client_address::fuzz::entry(bytes);
    forwarding_headers(&lines_of("forwarded", bytes));
}

/// `name: line` for each line.
fn lines_of(name: &str, bytes: &[u8]) -> Vec<u8> {
    let lines: Vec<Vec<u8>> =
        bytes.split(|byte| *byte == b'\n').map(|line| [name.as_bytes(), b":", line].concat()).collect();
    lines.join(&b'\n')
}
