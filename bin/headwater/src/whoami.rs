//! `headwater whoami`

use std::net::SocketAddr;
use std::process::ExitCode;

use headwater_whoami::Whoami;

#[derive(clap::Args)]
pub(crate) struct Args {
    /// Name of the instance, repeated in every answer
    #[arg(long, default_value = "whoami", value_name = "NAME")]
    name: String,
    /// Where to serve HTTP/1.1, HTTP/2, gRPC and WebSocket; may be repeated
    #[arg(long, default_value = "[::]:8080", value_name = "ADDRESS")]
    listen: Vec<SocketAddr>,
    /// Where to serve raw TCP; may be repeated
    #[arg(long, value_name = "ADDRESS")]
    tcp: Vec<SocketAddr>,
    /// Where to answer UDP; may be repeated
    #[arg(long, value_name = "ADDRESS")]
    udp: Vec<SocketAddr>,
    /// Accept a PROXY protocol header, and show it
    #[arg(long)]
    proxy_protocol: bool,
}

pub(crate) async fn run(args: Args) -> anyhow::Result<ExitCode> {
    let whoami = |bind: &[SocketAddr]| {
        let mut whoami = Whoami::new(args.name.clone(), bind.iter().copied());
        whoami.proxy_protocol = args.proxy_protocol;
        whoami
    };
    let mut servers = vec![("http", whoami(&args.listen).serve_http().await?)];
    if !args.tcp.is_empty() {
        servers.push(("tcp", whoami(&args.tcp).serve_tcp().await?));
    }
    if !args.udp.is_empty() {
        servers.push(("udp", whoami(&args.udp).serve_udp().await?));
    }
    let mut tasks = tokio::task::JoinSet::new();
    for (protocol, server) in servers {
        for address in server.local_addrs() {
            println!("{} serves {protocol} on {address}", args.name);
        }
        tasks.spawn(server.run(async {
            let _ = crate::running::stop_signal().await;
        }));
    }
    tasks.join_all().await;
    Ok(ExitCode::SUCCESS)
}
