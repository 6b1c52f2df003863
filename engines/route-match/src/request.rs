//! What matching looks at.

use std::net::IpAddr;

/// The parts of a request that rules can ask for. Only those that some candidate rule asks for are called.
pub trait RequestView {
    /// Normal form of the path, from [`normalise_path`](crate::normalise_path).
    fn path(&self) -> &str;

    /// Query as received, without `?`.
    fn query(&self) -> Option<&str>;

    /// Method as received; methods are case-sensitive.
    fn method(&self) -> &str;

    /// Hands over the value of each line of the header, in the order received.
    ///
    /// `name` is in lower case; names of the request are compared without regard to case. Surrounding white space is not
    /// part of a value.
    fn header<'a, F: FnMut(&'a [u8])>(&'a self, name: &str, line: F);

    /// The client `R` of the client-address contract.
    fn client(&self) -> IpAddr;
}
