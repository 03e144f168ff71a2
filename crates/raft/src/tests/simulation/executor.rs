use fastrand::Rng;
use std::any::Any;
use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, BTreeSet};
use std::future::Future;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::pin::{Pin, pin};
use std::rc::Rc;
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll, Wake, Waker};
use std::time::Duration;

/// Runs tasks on one thread, in an order and in a time of its own: which task that could go on does go on
/// is drawn from the seed, and only when none can, time jumps to the next timer. Timers end one by one.
///
/// Tasks belong to a process and spawn others in theirs. A process can be killed: then none of its tasks
/// ever goes on.
pub(crate) struct Executor {
    now: Cell<Duration>,
    process: Cell<ProcessId>,
    rng: RefCell<Rng>,
    tasks: RefCell<BTreeMap<TaskId, Task>>,
    ready: Arc<Ready>,
    timers: RefCell<BTreeMap<Timer, Waker>>,
    killed: RefCell<BTreeSet<ProcessId>>,
    /// Since their tasks were dropped last.
    has_killed: Cell<bool>,
    last_id: Cell<u64>,
}

/// A process of the simulated network. The one that clients and faults run in is 0.
pub(crate) type ProcessId = u64;

/// Where a timer stands in the order of timers.
pub(crate) type Timer = (Duration, u64);

type TaskId = u64;

struct Task {
    process: ProcessId,
    future: Pin<Box<dyn Future<Output = ()> + Send>>,
}

/// The tasks that can go on. The order in which they were woken does not count: `tokio::sync::watch` wakes
/// its receivers in a random one.
type Ready = Mutex<BTreeSet<TaskId>>;

struct Waking {
    task: TaskId,
    ready: Arc<Ready>,
}

impl Wake for Waking {
    fn wake(self: Arc<Self>) {
        self.ready.lock().unwrap().insert(self.task);
    }
}

thread_local! {
    static CURRENT: RefCell<Option<Rc<Executor>>> = const { RefCell::new(None) };
}

/// The executor that runs the caller; none outside of a simulation.
pub(crate) fn current() -> Option<Rc<Executor>> {
    CURRENT.try_with(|current| current.borrow().clone()).ok()?
}

/// The executor that runs the caller.
pub(crate) fn here() -> Rc<Executor> {
    current().expect("this runs in a simulation")
}

/// Random numbers that follow from the simulation's seed.
pub(crate) fn random<T>(draw: impl FnOnce(&mut Rng) -> T) -> T {
    here().random(draw)
}

/// Runs `main` in a world of its own that follows from `seed`, and gives what it gave, or how it panicked.
/// Whatever still runs then is dropped.
pub(crate) fn simulate<T>(
    seed: u64,
    main: impl Future<Output = T>,
) -> Result<T, Box<dyn Any + Send>> {
    let executor = Rc::new(Executor {
        now: Cell::default(),
        process: Cell::default(),
        rng: RefCell::new(Rng::with_seed(seed)),
        tasks: RefCell::default(),
        ready: Arc::default(),
        timers: RefCell::default(),
        killed: RefCell::default(),
        has_killed: Cell::default(),
        last_id: Cell::new(MAIN),
    });
    CURRENT.set(Some(Rc::clone(&executor)));
    let result = catch_unwind(AssertUnwindSafe(|| executor.run(main)));
    let left = catch_unwind(AssertUnwindSafe(|| {
        // Dropping tasks may wake and spawn others.
        while !executor.tasks.borrow().is_empty() {
            let tasks = std::mem::take(&mut *executor.tasks.borrow_mut());
            drop(tasks);
        }
    }));
    CURRENT.set(None);
    match (result, left) {
        (Ok(_), Err(panic)) => resume_unwind(panic),
        (result, _) => result,
    }
}

impl Executor {
    fn run<T>(&self, main: impl Future<Output = T>) -> T {
        let mut main = pin!(main);
        let mut polls = 0_u64;
        self.wake(MAIN);
        loop {
            while let Some(task) = self.next_ready() {
                polls += 1;
                assert!(
                    polls < MAX_POLLS,
                    "tasks go on without end at {:?}",
                    self.now()
                );
                if task == MAIN {
                    self.process.set(WORLD);
                    let waker = self.waker(MAIN);
                    if let Poll::Ready(done) = main.as_mut().poll(&mut Context::from_waker(&waker))
                    {
                        return done;
                    }
                } else {
                    self.poll(task);
                }
                self.bury();
            }
            polls = 0;
            let next = self.timers.borrow_mut().pop_first();
            let Some(((at, _), waker)) = next else {
                panic!("everything waits, and for nothing, at {:?}", self.now());
            };
            self.now.set(self.now.get().max(at));
            waker.wake();
        }
    }

    fn next_ready(&self) -> Option<TaskId> {
        let mut ready = self.ready.lock().unwrap();
        if ready.is_empty() {
            return None;
        }
        let at = self.rng.borrow_mut().usize(..ready.len());
        let task = *ready.iter().nth(at)?;
        ready.take(&task)
    }

    fn poll(&self, id: TaskId) {
        let Some(mut task) = self.tasks.borrow_mut().remove(&id) else {
            return;
        };
        self.process.set(task.process);
        let waker = self.waker(id);
        let polled = task.future.as_mut().poll(&mut Context::from_waker(&waker));
        if polled.is_pending() {
            self.tasks.borrow_mut().insert(id, task);
        }
        self.process.set(WORLD);
    }

    /// Drops the tasks of processes that were killed.
    fn bury(&self) {
        if !self.has_killed.take() {
            return;
        }
        let dead: Vec<Task> = {
            let (mut tasks, killed) = (self.tasks.borrow_mut(), self.killed.borrow());
            let dead = tasks
                .iter()
                .filter(|(_, task)| killed.contains(&task.process));
            let dead: Vec<TaskId> = dead.map(|(id, _)| *id).collect();
            dead.iter().filter_map(|id| tasks.remove(id)).collect()
        };
        for task in dead {
            self.process.set(task.process);
            drop(task);
        }
        self.process.set(WORLD);
    }

    fn waker(&self, task: TaskId) -> Waker {
        let ready = Arc::clone(&self.ready);
        Waker::from(Arc::new(Waking { task, ready }))
    }

    fn wake(&self, task: TaskId) {
        self.waker(task).wake();
    }

    /// Runs `future` in the process of the caller.
    pub(crate) fn spawn(&self, future: impl Future<Output = ()> + Send + 'static) {
        self.spawn_in(self.process.get(), future);
    }

    pub(crate) fn spawn_in(
        &self,
        process: ProcessId,
        future: impl Future<Output = ()> + Send + 'static,
    ) {
        if self.killed.borrow().contains(&process) {
            return;
        }
        let id = self.next_id();
        let future = Box::pin(future);
        self.tasks.borrow_mut().insert(id, Task { process, future });
        self.wake(id);
    }

    /// None of the process's tasks goes on after the one that runs now.
    pub(crate) fn kill(&self, process: ProcessId) {
        self.killed.borrow_mut().insert(process);
        self.has_killed.set(true);
    }

    /// A process that nothing runs in yet.
    pub(crate) fn new_process(&self) -> ProcessId {
        self.next_id()
    }

    /// The process of the caller.
    pub(crate) fn process(&self) -> ProcessId {
        self.process.get()
    }

    /// Time since the beginning.
    pub(crate) fn now(&self) -> Duration {
        self.now.get()
    }

    /// Random numbers that follow from the seed.
    pub(crate) fn random<T>(&self, draw: impl FnOnce(&mut Rng) -> T) -> T {
        draw(&mut self.rng.borrow_mut())
    }

    /// Wakes `waker` at a time, in place of the one that `before` was to wake.
    pub(crate) fn set_timer(&self, before: Option<Timer>, at: Duration, waker: Waker) -> Timer {
        let timer = before.unwrap_or_else(|| (at, self.next_id()));
        self.timers.borrow_mut().insert(timer, waker);
        timer
    }

    pub(crate) fn clear_timer(&self, timer: Timer) {
        let waker = self.timers.borrow_mut().remove(&timer);
        drop(waker);
    }

    fn next_id(&self) -> u64 {
        self.last_id.set(self.last_id.get() + 1);
        self.last_id.get()
    }
}

/// Where clients and faults run.
pub(crate) const WORLD: ProcessId = 0;
const MAIN: TaskId = 0;
/// At one moment.
const MAX_POLLS: u64 = 1_000_000;
