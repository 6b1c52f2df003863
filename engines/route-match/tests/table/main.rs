//! Whole tables: precedence between hosts, paths and conditions, against tables of cases and a naive scan.

mod build;
mod oracle;
mod precedence;
mod reuse;
