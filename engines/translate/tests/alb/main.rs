//! Rules of an ALB port, compiled and searched, against the words of their contract.

mod operators;
mod oracle;
mod support;
