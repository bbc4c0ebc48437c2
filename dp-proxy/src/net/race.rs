//! Which of several addresses of one peer is used: the first that takes a connection (RFC 8305 §5).

use std::future::{Future, poll_fn};
use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::time::sleep;

/// After so long without an answer the next address is tried beside those before it (RFC 8305 §5, "Connection Attempt Delay").
const STAGGER: Duration = Duration::from_millis(250);

/// An attempt that is under way.
type Attempt<F> = (SocketAddr, Pin<Box<F>>);

/// Tries the addresses in their order until one takes a connection: the next one begins as soon as one has failed, and else
/// after 250 ms, while those before it go on. There is no bound on time: an address that never answers is waited for as
/// long as nothing else is left. Cancel-safe: all attempts end with this.
///
/// # Errors
/// That of the address that failed last, with the address; `NotFound` where there is none.
pub(super) async fn first<F, T>(addresses: &[SocketAddr], connect: impl Fn(SocketAddr) -> F) -> io::Result<T>
where
    F: Future<Output = io::Result<T>>,
{
    let mut waiting = addresses.iter().copied();
    let mut attempts: Vec<Attempt<F>> = Vec::with_capacity(1);
    let mut last = io::Error::new(io::ErrorKind::NotFound, "there is no address");
    loop {
        match waiting.next() {
            Some(address) => attempts.push((address, Box::pin(connect(address)))),
            None if attempts.is_empty() => return Err(last),
            None => {}
        }
        tokio::select! {
            biased;
            (address, result) = poll_fn(|cx| poll_any(&mut attempts, cx)) => match result {
                Ok(connection) => return Ok(connection),
                Err(e) => last = io::Error::new(e.kind(), format!("{address}: {e}")),
            },
            () = sleep(STAGGER), if waiting.len() > 0 => {}
        }
    }
}

/// The next attempt that comes to an end; it is taken out.
fn poll_any<F: Future>(attempts: &mut Vec<Attempt<F>>, cx: &mut Context<'_>) -> Poll<(SocketAddr, F::Output)> {
    for at in 0..attempts.len() {
        if let Poll::Ready(output) = attempts[at].1.as_mut().poll(cx) {
            let (address, _) = attempts.swap_remove(at);
            return Poll::Ready((address, output));
        }
    }
    Poll::Pending
}

#[cfg(test)]
mod tests {
    use std::cell::RefCell;

    use tokio::time::Instant;

    use super::*;

    /// What an address does, and when.
    enum Does {
        Takes(u64),
        Refuses(u64),
        Nothing,
    }

    /// What comes of addresses that do this, and after how many milliseconds each was tried.
    fn race(does: &[Does]) -> (io::Result<u16>, u64, Vec<(u16, u64)>) {
        let mut runtime = tokio::runtime::Builder::new_current_thread();
        let runtime = runtime.enable_time().start_paused(true).build().unwrap();
        runtime.block_on(async {
            let begun = Instant::now();
            let now = || u64::try_from(begun.elapsed().as_millis()).unwrap();
            let tried = RefCell::new(Vec::new());
            let ports = 0..u16::try_from(does.len()).unwrap();
            let addresses: Vec<_> = ports.map(|port| SocketAddr::from(([127, 0, 0, 1], port))).collect();
            let result = first(&addresses, |address| {
                tried.borrow_mut().push((address.port(), now()));
                async move {
                    match does[usize::from(address.port())] {
                        Does::Takes(after) => {
                            sleep(Duration::from_millis(after)).await;
                            Ok(address.port())
                        }
                        Does::Refuses(after) => {
                            sleep(Duration::from_millis(after)).await;
                            Err(io::ErrorKind::ConnectionRefused.into())
                        }
                        Does::Nothing => std::future::pending().await,
                    }
                }
            });
            let result = result.await;
            (result, now(), tried.into_inner())
        })
    }

    #[test]
    fn an_address_that_never_answers_costs_a_moment() {
        let (result, after, tried) = race(&[Does::Nothing, Does::Nothing, Does::Takes(10)]);
        assert_eq!((result.unwrap(), after), (2, 510));
        assert_eq!(tried, [(0, 0), (1, 250), (2, 500)]);
    }

    #[test]
    fn one_that_refuses_is_followed_at_once() {
        let (result, after, tried) = race(&[Does::Refuses(5), Does::Takes(0), Does::Takes(0)]);
        assert_eq!((result.unwrap(), after), (1, 5));
        assert_eq!(tried, [(0, 0), (1, 5)]);
    }

    #[test]
    fn the_first_that_takes_it_wins_also_late() {
        let (result, after, _) = race(&[Does::Takes(400), Does::Nothing, Does::Nothing]);
        assert_eq!((result.unwrap(), after), (0, 400));
    }

    #[test]
    fn when_all_refuse_the_last_one_is_told() {
        let (result, _, tried) = race(&[Does::Refuses(400), Does::Refuses(100)]);
        assert_eq!(result.unwrap_err().to_string(), "127.0.0.1:0: connection refused");
        assert_eq!(tried.len(), 2);
        assert_eq!(race(&[]).0.unwrap_err().kind(), io::ErrorKind::NotFound);
    }
}
