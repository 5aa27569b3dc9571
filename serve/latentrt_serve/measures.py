"""What the server measures of itself, for Prometheus."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

if TYPE_CHECKING:
    from latentrt_serve.job import Job

SECONDS = (0.01, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300)


class Measures:
    """Counters and histograms, in a registry of their own."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self.taken = self._counter("jobs_taken", "Jobs that were taken into the queue.")
        self.refused = self._counter("jobs_refused", "Jobs that were refused because the queue was full.")
        self.pictures = self._counter("pictures", "Pictures that were made.")
        self.steps = self._counter("steps", "Denoising steps of finished jobs.")
        self.finished = Counter("latentrt_jobs_ended", "Jobs by their end.", ["state"], registry=self.registry)
        self.seconds = self._histogram("job_seconds", "Seconds from submission to the end of a job.")
        self.waited = self._histogram("job_wait_seconds", "Seconds that a job waited in the queue.")
        self.phase = Histogram(
            "latentrt_phase_seconds",
            "Seconds of each phase of a job.",
            ["phase"],
            buckets=SECONDS,
            registry=self.registry,
        )
        self.waiting = Gauge("latentrt_queue_jobs", "Jobs that wait.", registry=self.registry)
        self.running = Gauge("latentrt_running_jobs", "Jobs that run.", registry=self.registry)
        self.memory = Gauge("latentrt_model_bytes", "Bytes of the models that are loaded.", registry=self.registry)
        self.resident = Gauge("latentrt_resident_bytes", "Memory of the process.", registry=self.registry)

    def _counter(self, name: str, text: str) -> Counter:
        return Counter(f"latentrt_{name}", text, registry=self.registry)

    def _histogram(self, name: str, text: str) -> Histogram:
        return Histogram(f"latentrt_{name}", text, buckets=SECONDS, registry=self.registry)

    def took(self, seconds: Mapping[str, float]) -> None:
        """Takes note of the phases of a job."""
        for phase, one in seconds.items():
            self.phase.labels(phase).observe(one)

    def ended(self, job: Job) -> None:
        """Takes note of the end of a job."""
        self.finished.labels(job.state).inc()
        if job.completed is not None:
            self.seconds.observe(job.completed - job.created)
        if job.started is not None:
            self.waited.observe(job.started - job.created)
        if job.pictures is not None:
            self.pictures.inc(len(job.pictures.images))
            self.steps.inc(job.total)
