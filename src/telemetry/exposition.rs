//! The metrics as OpenMetrics text, summed over the workers when they are asked for.

use std::fmt;
use std::sync::Arc;

use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, MetricEncoder, text};
use prometheus_client::metrics::MetricType;
use prometheus_client::registry::Registry;

use super::catalog::{self, Metric, MetricKind, Sample, unix_seconds};
use super::diagnostics;
use super::kernel_tls::Statistics;
use super::memory::MemoryMetrics;
use super::process::{Phase, Process, WorkerState};

/// The media type of the exposition.
pub const CONTENT_TYPE: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// The metrics of the process.
#[derive(Debug)]
pub struct Exposition {
    registry: Registry,
}

impl Exposition {
    /// The exposition of `process`; each [`Exposition::encode`] reads it anew.
    pub fn new(process: Arc<Process>) -> Self {
        let mut registry = Registry::default();
        registry.register_collector(Box::new(Readings { process }));
        Self { registry }
    }

    /// The present values.
    ///
    /// # Errors
    /// None that a string can cause; the encoder's signature has them.
    pub fn encode(&self) -> Result<String, fmt::Error> {
        let mut text = String::new();
        text::encode(&mut text, &self.registry)?;
        Ok(text)
    }
}

#[derive(Debug)]
struct Readings {
    process: Arc<Process>,
}

impl Collector for Readings {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> Result<(), fmt::Error> {
        for (metric, samples) in readings(&self.process) {
            encode_metric(&mut encoder, &metric, samples)?;
        }
        Ok(())
    }
}

/// Every metric with its values, in the order of [`catalog::all`].
fn readings(process: &Process) -> Vec<(Metric, Vec<Sample>)> {
    let mut readings = vec![
        (catalog::build(), vec![sample([("version", process.version), ("openssl", process.openssl)], 1)]),
        (catalog::start_time(), vec![sample([], unix_seconds(process.started))]),
        (catalog::log_lines_dropped(), vec![sample([], diagnostics::dropped_line_count().into())]),
        catalog::log_lines(&process.logs),
        (catalog::draining(), vec![sample([], i128::from(process.phase.get() != Phase::Serving))]),
        (catalog::config_generation(), vec![sample([], process.snapshot.load().generation.into())]),
        (catalog::config_published(), vec![sample([], unix_seconds(process.snapshot.load().published))]),
        catalog::reloads(&process.reloads),
        catalog::certificate_swaps(&process.reloads),
        catalog::upgrades_failed(&process.reloads),
        (catalog::certificate_not_after(), certificate_ends(process)),
    ];
    readings.extend(catalog::expiry(&process.snapshot.load().expiry));
    readings.extend([
        (catalog::workers(), WorkerState::ALL.map(|state| workers_in(state, process)).to_vec()),
        (catalog::worker_connections_open(), connections_by_worker(process)),
        (catalog::resident_memory(), vec![sample([], MemoryMetrics::resident_bytes().unwrap_or_default().into())]),
        catalog::memory_ceiling(&process.memory),
        (catalog::memory_pressure(), vec![sample([], process.memory.pressure.value().into())]),
        catalog::memory_steps(&process.memory),
    ]);
    readings.extend(catalog::stapling(&process.stapling));
    readings.extend(catalog::ticket_ring(&process.ticket_ring));
    // Where the kernel has no TLS, there is nothing to count.
    let kernel_tls = Statistics::read().unwrap_or_default();
    readings.extend([catalog::kernel_tls_events(&kernel_tls), catalog::kernel_tls_open(&kernel_tls)]);
    readings.extend(sum_of_workers(process));
    readings
}

fn sum_of_workers(process: &Process) -> Vec<(Metric, Vec<Sample>)> {
    let mut workers = process.workers.iter().map(|worker| catalog::read_worker(&worker.metrics));
    let mut sums = workers.next().unwrap_or_default();
    for worker in workers {
        for ((_, sums), (_, samples)) in sums.iter_mut().zip(worker) {
            for (sum, sample) in sums.iter_mut().zip(samples) {
                sum.value += sample.value;
            }
        }
    }
    sums
}

fn workers_in(state: WorkerState, process: &Process) -> Sample {
    sample([("state", state.name())], process.worker_count(state) as i128)
}

fn connections_by_worker(process: &Process) -> Vec<Sample> {
    let workers = process.workers.iter().enumerate();
    let one = |(index, worker): (usize, &super::process::WorkerView)| {
        sample([("worker", index.to_string().as_str())], worker.metrics.connections_open.value().into())
    };
    workers.map(one).collect()
}

fn certificate_ends(process: &Process) -> Vec<Sample> {
    let snapshot = process.snapshot.load();
    let end = |listener: &super::process::ListenerView| {
        sample([("listener", listener.name.as_str())], unix_seconds(listener.certificate_not_after))
    };
    snapshot.listeners.iter().map(end).collect()
}

fn sample<const N: usize>(labels: [(&'static str, &str); N], value: i128) -> Sample {
    Sample { labels: labels.map(|(name, value)| (name, value.to_owned())).to_vec(), value }
}

fn encode_metric(encoder: &mut DescriptorEncoder<'_>, metric: &Metric, samples: Vec<Sample>) -> fmt::Result {
    let kind = match metric.kind {
        MetricKind::Counter => MetricType::Counter,
        MetricKind::Gauge => MetricType::Gauge,
        MetricKind::Info => MetricType::Info,
    };
    let mut family = encoder.encode_descriptor(metric.subject, metric.help, metric.unit.as_ref(), kind)?;
    for Sample { labels, value } in samples {
        if metric.kind == MetricKind::Info {
            family.encode_info(&labels)?;
        } else if labels.is_empty() {
            encode_value(&mut family, metric.kind, value)?;
        } else {
            encode_value(&mut family.encode_family(&labels)?, metric.kind, value)?;
        }
    }
    Ok(())
}

fn encode_value(encoder: &mut MetricEncoder<'_>, kind: MetricKind, value: i128) -> fmt::Result {
    if kind == MetricKind::Counter {
        let value = u64::try_from(value).unwrap_or(u64::MAX);
        return encoder.encode_counter::<prometheus_client::encoding::NoLabelSet, _, u64>(&value, None);
    }
    encoder.encode_gauge(&i64::try_from(value).unwrap_or(i64::MAX))
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used, reason = "a failed expectation is a failed test")]
mod tests {
    use super::*;
    use crate::telemetry::{Kind, RingStatus, Version};

    #[test]
    fn counters_are_summed_over_the_workers() {
        let process = Arc::new(Process::sample(3));
        for (index, worker) in process.workers.iter().enumerate() {
            worker.metrics.handshakes.of(Version::Tls13).of(Kind::Full).add(index as u64 + 1);
            worker.metrics.connections_open.add(index as i64);
        }
        let text = Exposition::new(process).encode().unwrap();
        assert!(text.contains("\nsluice_handshakes_total{version=\"1.3\",kind=\"full\"} 6\n"), "{text}");
        assert!(text.contains("\nsluice_handshakes_total{version=\"1.2\",kind=\"full\"} 0\n"), "{text}");
        assert!(text.contains("\nsluice_connections_open 3\n"), "{text}");
        assert!(text.contains("\nsluice_worker_connections_open{worker=\"2\"} 2\n"), "{text}");
    }

    #[test]
    fn exposition_holds_exactly_the_catalogue_in_its_order() {
        let readings: Vec<_> =
            readings(&Process::sample(1)).into_iter().map(|(metric, _)| metric.sample_name()).collect();
        assert_eq!(readings, catalog::all().iter().map(Metric::sample_name).collect::<Vec<_>>());
    }

    #[test]
    fn samples_carry_the_labels_that_the_catalogue_promises() {
        for (metric, samples) in readings(&Process::sample(2)) {
            for sample in samples {
                assert_eq!(sample.labels.len(), metric.labels.len(), "{}", metric.subject);
                for ((name, value), promised) in sample.labels.iter().zip(&metric.labels) {
                    assert_eq!(*name, promised.name);
                    if let catalog::LabelValues::Closed(values) = &promised.values {
                        assert!(values.contains(&value.as_str()), "{name}={value}");
                    }
                }
            }
        }
    }

    #[test]
    fn quotes_in_label_values_are_escaped() {
        let text = Exposition::new(Arc::new(Process::sample(1))).encode().unwrap();
        assert!(text.contains("sluice_build_info{version=\"1.2.3\",openssl=\"OpenSSL 4 \\\"test\\\"\"} 1\n"), "{text}");
    }

    #[test]
    fn ticket_ring_shows_where_it_stands_and_nothing_where_there_is_none() {
        let process = Arc::new(Process::sample(1));
        let text = Exposition::new(Arc::clone(&process)).encode().unwrap();
        assert!(text.contains("# TYPE sluice_ticket_ring_epoch gauge"), "{text}");
        assert!(!text.contains("\nsluice_ticket_ring_epoch "), "{text}");
        process.ticket_ring.publish(RingStatus::sample());
        let text = Exposition::new(process).encode().unwrap();
        assert!(text.contains("\nsluice_ticket_ring_epoch 500000\n"), "{text}");
        assert!(text.contains("\nsluice_ticket_ring_generation 3\n"), "{text}");
        assert!(text.contains("\nsluice_ticket_ring_next_ratchet_time_seconds 1800000120\n"), "{text}");
        assert!(text.contains("\nsluice_ticket_ring_standing{standing=\"current\"} 1\n"), "{text}");
        assert!(text.contains("\nsluice_ticket_ring_standing{standing=\"ahead\"} 0\n"), "{text}");
    }

    #[test]
    fn failed_worker_and_drain_show() {
        let process = Arc::new(Process::sample(2));
        process.workers[1].state.set(WorkerState::Failed);
        process.phase.set(Phase::Draining);
        let text = Exposition::new(process).encode().unwrap();
        assert!(text.contains("\nsluice_workers{state=\"running\"} 1\n"), "{text}");
        assert!(text.contains("\nsluice_workers{state=\"failed\"} 1\n"), "{text}");
        assert!(text.contains("\nsluice_draining 1\n"), "{text}");
        assert!(text.contains("\nsluice_process_start_time_seconds 1700000000\n"), "{text}");
    }
}
