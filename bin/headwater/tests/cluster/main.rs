//! Both roles as programs against a real API server: with the rights that the installation gives them, with kubectl
//! or raw requests as the user's client.
#![allow(clippy::unwrap_used, reason = "test code")]

mod addresses;
mod alb;
mod balancers;
mod controller;
mod explain;
mod gateway;
mod migration;
mod outage;
mod support;
