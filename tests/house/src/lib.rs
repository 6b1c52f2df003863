//! Checks of the house itself; see the tests.
