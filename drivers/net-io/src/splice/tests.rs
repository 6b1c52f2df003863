use std::net::Ipv4Addr;
use std::time::Duration;

use proptest::prelude::*;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;

use super::*;

/// Two ends of one connection, with small kernel buffers so that a slow reader is felt.
async fn pair() -> (TcpStream, TcpStream) {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
    let ours = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
    let theirs = listener.accept().await.unwrap().0;
    for stream in [&ours, &theirs] {
        socket2::SockRef::from(stream).set_send_buffer_size(64 << 10).unwrap();
        socket2::SockRef::from(stream).set_recv_buffer_size(64 << 10).unwrap();
    }
    (ours, theirs)
}

fn payload(len: usize) -> Vec<u8> {
    (0..len).map(|i| (i ^ (i >> 8) ^ (i >> 16)) as u8).collect()
}

fn block_on<T>(future: impl Future<Output = T>) -> T {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async { tokio::time::timeout(Duration::from_secs(60), future).await.unwrap() })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(16))]

    /// Whatever the sizes of writes and reads, the bytes and their number are right, and what lies past the limit stays.
    #[test]
    fn bytes_arrive_in_order_and_none_past_the_limit(
        len in 0usize..600_000,
        past in 0usize..2_000,
        writes in 1usize..70_000,
        reads in 1usize..70_000,
        by_fin in any::<bool>(),
    ) {
        block_on(async {
            let (mut source, from) = pair().await;
            let (to, mut sink) = pair().await;
            let sent = payload(len + past);
            let limit = if by_fin { u64::MAX } else { len as u64 };
            let total = if by_fin { len + past } else { len };
            let write = async {
                for chunk in sent.chunks(writes) {
                    source.write_all(chunk).await.unwrap();
                    tokio::task::yield_now().await;
                }
                if by_fin {
                    source.shutdown().await.unwrap();
                }
            };
            let mut progress = 0;
            let transfer = async {
                let moved = splice(&from, &to, limit, |n| progress += n).await.unwrap();
                rustix::net::shutdown(&to, rustix::net::Shutdown::Write).unwrap();
                moved
            };
            let read = async {
                let mut received = Vec::new();
                let mut buffer = vec![0; reads];
                loop {
                    let n = sink.read(&mut buffer).await.unwrap();
                    if n == 0 {
                        break received;
                    }
                    received.extend_from_slice(&buffer[..n]);
                    tokio::task::yield_now().await;
                }
            };
            let ((), moved, received) = tokio::join!(write, transfer, read);
            assert_eq!(moved, total as u64);
            assert_eq!(progress, moved);
            assert!(received == sent[..total], "bytes differ");
            if !by_fin {
                let mut rest = vec![0; past];
                let mut from = from;
                from.read_exact(&mut rest).await.unwrap();
                assert!(rest == sent[len..], "bytes past the limit were taken");
            }
        });
    }
}

#[tokio::test]
async fn a_pipe_returns_to_the_pool_only_when_it_is_empty() {
    let (mut source, from) = pair().await;
    let (to, mut sink) = pair().await;
    source.write_all(b"hello").await.unwrap();
    assert_eq!(splice(&from, &to, 5, |_| {}).await.unwrap(), 5);
    let mut received = [0; 5];
    sink.read_exact(&mut received).await.unwrap();
    assert_eq!(&received, b"hello");
    assert_eq!(IDLE.with_borrow(Vec::len), 1);

    // What a transfer that is dropped while the receiver blocks leaves behind.
    source.write_all(b"hello").await.unwrap();
    from.readable().await.unwrap();
    let mut lease = take().unwrap();
    assert_eq!(lease.fill(&from, 5).unwrap(), 5);
    drop(lease);
    assert_eq!(IDLE.with_borrow(Vec::len), 0, "a pipe with bytes of one connection must not serve another");
}

#[test]
fn a_thread_keeps_few_idle_pipes() {
    let leases: Vec<Lease> = (0..MAX_IDLE_PIPES + 4).map(|_| take().unwrap()).collect();
    assert_eq!(IDLE.with_borrow(Vec::len), 0);
    drop(leases);
    assert_eq!(IDLE.with_borrow(Vec::len), MAX_IDLE_PIPES);
}

#[tokio::test]
async fn a_receiver_that_resets_is_named() {
    let (mut source, from) = pair().await;
    let (to, sink) = pair().await;
    socket2::SockRef::from(&sink).set_linger(Some(Duration::ZERO)).unwrap();
    drop(sink);
    to.readable().await.unwrap();
    source.write_all(b"hello").await.unwrap();
    let error = splice(&from, &to, 5, |_| {}).await.unwrap_err();
    assert_eq!((error.by, error.moved), (SpliceSide::To, 0), "{error:?}");
    assert_eq!(IDLE.with_borrow(Vec::len), 0);
}

#[tokio::test]
async fn a_sender_that_resets_is_named() {
    let (mut source, from) = pair().await;
    let (to, mut sink) = pair().await;
    source.write_all(b"hello").await.unwrap();
    let reset = async {
        let mut received = [0; 5];
        sink.read_exact(&mut received).await.unwrap();
        socket2::SockRef::from(&source).set_linger(Some(Duration::ZERO)).unwrap();
        drop(source);
    };
    let (result, ()) = tokio::join!(splice(&from, &to, 10, |_| {}), reset);
    let error = result.unwrap_err();
    assert_eq!((error.by, error.moved), (SpliceSide::From, 5), "{error:?}");
}

#[tokio::test]
async fn a_waiting_transfer_holds_no_pipe() {
    let (mut source, from) = pair().await;
    let (to, mut sink) = pair().await;
    drop(take().unwrap());
    let transfer = splice(&from, &to, 10, |_| {});
    let talk = async {
        for _ in 0..2 {
            source.write_all(b"hello").await.unwrap();
            let mut received = [0; 5];
            sink.read_exact(&mut received).await.unwrap();
        }
    };
    tokio::pin!(transfer);
    tokio::select! {
        biased;
        _ = &mut transfer => panic!("nothing was sent"),
        () = std::future::ready(()) => {}
    }
    assert_eq!(IDLE.with_borrow(Vec::len), 1, "held before the first byte");
    let (result, ()) = tokio::join!(transfer, talk);
    assert_eq!(result.unwrap(), 10);
    assert_eq!(IDLE.with_borrow(Vec::len), 1);
}
