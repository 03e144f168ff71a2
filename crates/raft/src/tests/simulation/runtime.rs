//! What `crate::runtime` is in this crate's tests: a simulation's own where one runs, the real one elsewhere.

use super::executor::{Timer, current, here, random};
use super::network::Link;
use futures::FutureExt;
use futures::future::BoxFuture;
use openraft::{AsyncRuntime, TokioRuntime};
use std::fmt;
use std::future::Future;
use std::ops::{Add, AddAssign, Sub, SubAssign};
use std::pin::Pin;
use std::sync::LazyLock;
use std::task::{Context, Poll, ready};
use std::time::Duration;
use tokio::sync::oneshot;
use tonic::codegen::{Service, StdError, http};

/// A moment, as the time since one that nobody sees.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Instant(Duration);

impl Instant {
    pub(crate) fn now() -> Self {
        Self(match current() {
            Some(executor) => executor.now(),
            None => BEGAN.elapsed(),
        })
    }

    pub(crate) fn elapsed(&self) -> Duration {
        Self::now().duration_since(*self)
    }

    pub(crate) fn duration_since(&self, earlier: Self) -> Duration {
        self.0.saturating_sub(earlier.0)
    }

    pub(crate) fn saturating_duration_since(&self, earlier: Self) -> Duration {
        self.duration_since(earlier)
    }
}

impl openraft::Instant for Instant {
    fn now() -> Self {
        Self::now()
    }
}

impl Add<Duration> for Instant {
    type Output = Self;

    fn add(self, by: Duration) -> Self {
        Self(self.0 + by)
    }
}

impl AddAssign<Duration> for Instant {
    fn add_assign(&mut self, by: Duration) {
        self.0 += by;
    }
}

impl Sub<Duration> for Instant {
    type Output = Self;

    fn sub(self, by: Duration) -> Self {
        Self(self.0.saturating_sub(by))
    }
}

impl SubAssign<Duration> for Instant {
    fn sub_assign(&mut self, by: Duration) {
        *self = *self - by;
    }
}

impl Sub for Instant {
    type Output = Duration;

    fn sub(self, earlier: Self) -> Duration {
        self.duration_since(earlier)
    }
}

static BEGAN: LazyLock<std::time::Instant> =
    LazyLock::new(|| tokio::time::Instant::now().into_std());

/// Ends at a time.
pub(crate) enum Sleep {
    Real(Pin<Box<tokio::time::Sleep>>),
    Simulated(Duration, Option<Timer>),
}

impl Future for Sleep {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        match &mut *self {
            Self::Real(sleep) => sleep.poll_unpin(cx),
            Self::Simulated(until, timer) => {
                let executor = here();
                if executor.now() >= *until {
                    return Poll::Ready(());
                }
                *timer = Some(executor.set_timer(*timer, *until, cx.waker().clone()));
                Poll::Pending
            }
        }
    }
}

impl Drop for Sleep {
    fn drop(&mut self) {
        if let Self::Simulated(_, Some(timer)) = self
            && let Some(executor) = current()
        {
            executor.clear_timer(*timer);
        }
    }
}

pub(crate) fn sleep(duration: Duration) -> Sleep {
    match current() {
        Some(executor) => Sleep::Simulated(executor.now() + duration, None),
        None => Sleep::Real(Box::pin(tokio::time::sleep(duration))),
    }
}

fn sleep_until(until: Instant) -> Sleep {
    sleep(until.duration_since(Instant::now()))
}

/// It took too long.
#[derive(Debug, thiserror::Error)]
#[error("deadline has elapsed")]
pub(crate) struct Elapsed;

pub(crate) struct Timeout<F> {
    future: Pin<Box<F>>,
    sleep: Sleep,
}

impl<F: Future> Future for Timeout<F> {
    type Output = Result<F::Output, Elapsed>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        if let Poll::Ready(done) = self.future.poll_unpin(cx) {
            return Poll::Ready(Ok(done));
        }
        self.sleep.poll_unpin(cx).map(|()| Err(Elapsed))
    }
}

pub(crate) fn timeout<F: Future>(duration: Duration, future: F) -> Timeout<F> {
    let (future, sleep) = (Box::pin(future), sleep(duration));
    Timeout { future, sleep }
}

pub(crate) fn timeout_at<F: Future>(until: Instant, future: F) -> Timeout<F> {
    timeout(until.duration_since(Instant::now()), future)
}

pub(crate) enum JoinHandle<T> {
    Real(tokio::task::JoinHandle<T>),
    Simulated(oneshot::Receiver<T>),
}

/// A task did not end as it should.
#[derive(Debug, thiserror::Error)]
pub(crate) enum JoinError {
    #[error(transparent)]
    Real(tokio::task::JoinError),
    #[error("the task was dropped")]
    Dropped,
}

impl<T> Future for JoinHandle<T> {
    type Output = Result<T, JoinError>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        Poll::Ready(match &mut *self {
            Self::Real(handle) => ready!(handle.poll_unpin(cx)).map_err(JoinError::Real),
            Self::Simulated(done) => ready!(done.poll_unpin(cx)).map_err(|_| JoinError::Dropped),
        })
    }
}

pub(crate) fn spawn<T: Send + 'static>(
    future: impl Future<Output = T> + Send + 'static,
) -> JoinHandle<T> {
    let Some(executor) = current() else {
        return JoinHandle::Real(tokio::spawn(future));
    };
    let (sender, receiver) = oneshot::channel();
    executor.spawn(async move {
        // Nobody may be waiting for it.
        let _unheard = sender.send(future.await);
    });
    JoinHandle::Simulated(receiver)
}

/// In a simulation the work is done at one moment, and then takes as long as the disk says.
pub(crate) fn spawn_blocking<T: Send + 'static>(
    work: impl FnOnce() -> T + Send + 'static,
) -> JoinHandle<T> {
    if current().is_none() {
        return JoinHandle::Real(tokio::task::spawn_blocking(work));
    }
    spawn(async move {
        let begins = random(|rng| rng.u64(..MAX_QUEUED_MICROS));
        sleep(Duration::from_micros(begins)).await;
        super::disk::take_delay();
        let done = work();
        let delay = super::disk::take_delay();
        sleep(delay).await;
        done
    })
}

pub(crate) fn fill_random(bytes: &mut [u8]) -> Result<(), getrandom::Error> {
    match current() {
        Some(executor) => executor.random(|rng| rng.fill(bytes)),
        None => getrandom::fill(bytes)?,
    }
    Ok(())
}

/// openraft's way to all of that.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Runtime;

impl AsyncRuntime for Runtime {
    type JoinError = JoinError;
    type JoinHandle<T: Send + 'static> = JoinHandle<T>;
    type Sleep = Sleep;
    type Instant = Instant;
    type TimeoutError = Elapsed;
    type Timeout<R, T: Future<Output = R> + Send> = Timeout<T>;
    type ThreadLocalRng = Random;
    type OneshotSender<T: Send> = <TokioRuntime as AsyncRuntime>::OneshotSender<T>;
    type OneshotReceiver<T: Send> = <TokioRuntime as AsyncRuntime>::OneshotReceiver<T>;
    type OneshotReceiverError = <TokioRuntime as AsyncRuntime>::OneshotReceiverError;

    fn spawn<T>(future: T) -> JoinHandle<T::Output>
    where
        T: Future + Send + 'static,
        T::Output: Send + 'static,
    {
        spawn(future)
    }

    fn sleep(duration: Duration) -> Sleep {
        sleep(duration)
    }

    fn sleep_until(deadline: Instant) -> Sleep {
        sleep_until(deadline)
    }

    fn timeout<R, F: Future<Output = R> + Send>(duration: Duration, future: F) -> Timeout<F> {
        timeout(duration, future)
    }

    fn timeout_at<R, F: Future<Output = R> + Send>(deadline: Instant, future: F) -> Timeout<F> {
        timeout_at(deadline, future)
    }

    fn is_panic(error: &JoinError) -> bool {
        matches!(error, JoinError::Real(error) if error.is_panic())
    }

    fn thread_rng() -> Random {
        Random
    }

    fn oneshot<T: Send>() -> (Self::OneshotSender<T>, Self::OneshotReceiver<T>) {
        TokioRuntime::oneshot()
    }
}

/// Random numbers: the simulation's, or those of this thread.
pub(crate) struct Random;

impl rand::RngCore for Random {
    fn next_u32(&mut self) -> u32 {
        match current() {
            Some(executor) => executor.random(|rng| rng.u32(..)),
            None => fastrand::u32(..),
        }
    }

    fn next_u64(&mut self) -> u64 {
        match current() {
            Some(executor) => executor.random(|rng| rng.u64(..)),
            None => fastrand::u64(..),
        }
    }

    fn fill_bytes(&mut self, bytes: &mut [u8]) {
        match current() {
            Some(executor) => executor.random(|rng| rng.fill(bytes)),
            None => fastrand::fill(bytes),
        }
    }

    fn try_fill_bytes(&mut self, bytes: &mut [u8]) -> Result<(), rand::Error> {
        self.fill_bytes(bytes);
        Ok(())
    }
}

/// The way to another node.
#[derive(Clone)]
pub(crate) enum Channel {
    Real(tonic::transport::Channel),
    Simulated(Link),
}

impl From<tonic::transport::Channel> for Channel {
    fn from(channel: tonic::transport::Channel) -> Self {
        Self::Real(channel)
    }
}

impl Service<http::Request<tonic::body::Body>> for Channel {
    type Response = http::Response<tonic::body::Body>;
    type Error = StdError;
    type Future = BoxFuture<'static, Result<Self::Response, StdError>>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), StdError>> {
        match self {
            Self::Real(channel) => channel.poll_ready(cx).map_err(Into::into),
            Self::Simulated(_) => Poll::Ready(Ok(())),
        }
    }

    fn call(&mut self, request: http::Request<tonic::body::Body>) -> Self::Future {
        match self {
            Self::Real(channel) => {
                let answer = channel.call(request);
                Box::pin(async move { Ok(answer.await?) })
            }
            Self::Simulated(link) => Box::pin(link.clone().call(request)),
        }
    }
}

impl fmt::Debug for Channel {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Channel(..)")
    }
}

/// Before a thread takes up blocking work.
const MAX_QUEUED_MICROS: u64 = 200;
