//! Runs of several contestants in turn, and their medians.

use std::fmt;
use std::time::{Duration, Instant};

use rustix::time::{ClockId, clock_gettime};

/// What one run cost.
#[derive(Clone, Copy, Debug)]
pub struct Cost {
    /// Bytes moved.
    pub bytes: u64,
    /// Wall time.
    pub wall: Duration,
    /// Processor time of the whole process: both ends, kernel included.
    pub cpu: Duration,
}

impl Cost {
    /// Billions of bytes per second.
    pub fn gigabytes_per_second(&self) -> f64 {
        self.bytes as f64 / 1e9 / self.wall.as_secs_f64()
    }

    /// Processor seconds per billion bytes, both ends together.
    pub fn cpu_per_gigabyte(&self) -> f64 {
        self.cpu.as_secs_f64() / (self.bytes as f64 / 1e9)
    }
}

impl fmt::Display for Cost {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:.3} GB/s, {:.2} CPU s/GB", self.gigabytes_per_second(), self.cpu_per_gigabyte())
    }
}

/// A running measurement.
#[derive(Debug)]
pub struct Stopwatch {
    wall: Instant,
    cpu: Duration,
}

impl Stopwatch {
    /// Starts it.
    pub fn start() -> Self {
        Self { wall: Instant::now(), cpu: process_time() }
    }

    /// Stops it: what moving `bytes` has cost.
    pub fn stop(self, bytes: u64) -> Cost {
        Cost { bytes, wall: self.wall.elapsed(), cpu: process_time() - self.cpu }
    }
}

fn process_time() -> Duration {
    let time = clock_gettime(ClockId::ProcessCPUTime);
    Duration::new(time.tv_sec as u64, time.tv_nsec as u32)
}

/// The middle value; of an even number, the higher of the two in the middle.
pub fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values.get(values.len() / 2).copied().unwrap_or(f64::NAN)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_median_is_in_the_middle() {
        assert_eq!(median(vec![3.0, 1.0, 2.0]), 2.0);
        assert_eq!(median(vec![4.0, 1.0]), 4.0);
        assert!(median(vec![]).is_nan());
    }
}
