//! The pool under runs of tiny items, panics, several callers, and more threads than cores.

use super::*;
use std::sync::atomic::AtomicUsize;

/// Every item is done once, by a thread of the pool, and the caller sees what was written.
fn check(pool: &Pool, n_items: usize, run_len: usize) {
    let counts: Vec<AtomicUsize> = (0..n_items).map(|_| AtomicUsize::new(0)).collect();
    pool.run(n_items, run_len, &|range, worker_idx| {
        assert!(worker_idx < pool.n_threads() && range.len() <= run_len.max(1) && range.start % run_len.max(1) == 0);
        for item in range {
            counts[item].fetch_add(1, Ordering::Relaxed);
        }
    });
    assert!(counts.iter().all(|count| count.load(Ordering::Relaxed) == 1), "{n_items} {run_len}");
}

#[test]
fn every_item_is_done_once() {
    for n_threads in [0, 1, 2, 3, 9] {
        let pool = Pool::new(n_threads);
        assert_eq!(pool.n_threads(), n_threads.max(1));
        for n_items in [0, 1, 2, 3, 7, 100] {
            [0, 1, 2, 7, 1000].iter().for_each(|&run_len| check(&pool, n_items, run_len));
        }
    }
}

/// Thousands of runs without a pause, with short pauses and with pauses in which workers fall asleep.
#[test]
fn runs_of_tiny_items_neither_hang_nor_lose_any() {
    for n_threads in [2, 3, 5] {
        let pool = Pool::new(n_threads);
        let mut sums = vec![0_usize; 13];
        for round in 0..20_000 {
            pool.run_rows(&mut sums, 1, 1, &|first, rows, _| rows[0] += first + round);
            if round % 1000 == 0 {
                std::thread::sleep(Duration::from_micros(30 * (round as u64 / 1000)));
            }
        }
        let expected = |first: usize| 20_000 * first + 20_000 * 19_999 / 2;
        assert!(sums.iter().enumerate().all(|(first, &sum)| sum == expected(first)));
    }
}

/// Panics without a message on the terminal.
fn panic_quietly(payload: usize) {
    resume_unwind(Box::new(payload));
}

#[test]
fn a_panic_goes_on_in_the_caller_and_the_pool_lives() {
    for n_threads in [1, 2, 4] {
        let pool = Pool::new(n_threads);
        for round in 0..200 {
            let work = |range: Range<usize>, _| {
                if range.start == round % 64 {
                    panic_quietly(range.start);
                }
            };
            let payload = catch_unwind(AssertUnwindSafe(|| pool.run(64, 1, &work))).expect_err("a panic");
            assert_eq!(*payload.downcast::<usize>().expect("an item"), round % 64);
            check(&pool, 100, 3);
        }
    }
}

#[test]
fn a_run_inside_a_run_is_refused() {
    for n_threads in [1, 3] {
        let pool = Pool::new(n_threads);
        let run = || pool.run(8, 1, &|_, _| pool.run(1, 1, &|_, _| ()));
        assert!(catch_unwind(AssertUnwindSafe(run)).is_err());
        check(&pool, 10, 1);
    }
}

#[test]
fn callers_take_turns() {
    let pool = Pool::new(3);
    std::thread::scope(|scope| {
        (0..4).for_each(|_| drop(scope.spawn(|| (0..500).for_each(|round| check(&pool, round % 40, 1 + round % 3)))));
    });
}

#[test]
fn every_thread_takes_part_in_a_long_run() {
    let pool = Pool::new(4);
    let counts: Vec<AtomicUsize> = (0..4).map(|_| AtomicUsize::new(0)).collect();
    pool.run(400, 1, &|_, worker_idx| {
        counts[worker_idx].fetch_add(1, Ordering::Relaxed);
        std::thread::sleep(Duration::from_micros(200));
    });
    assert!(counts.iter().all(|count| count.load(Ordering::Relaxed) > 0), "{counts:?}");
}
