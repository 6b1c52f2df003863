//! What every hop of a request sees of its client, and why.
