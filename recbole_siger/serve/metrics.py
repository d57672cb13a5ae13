"""Counts and times of requests in the text form of Prometheus."""

from __future__ import annotations

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

__all__ = ["CONTENT_TYPE", "Metrics"]

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"

_SECONDS = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 10.0)


class Metrics:
    """The measurements of one server."""

    def __init__(self) -> None:
        self._registry = CollectorRegistry()
        self.requests = Counter(
            "recbole_siger_requests",
            "Requests by route and status.",
            ["route", "status"],
            registry=self._registry,
        )
        self.seconds = Histogram(
            "recbole_siger_request_seconds",
            "Seconds from a request's header to the end of its answer.",
            ["route"],
            buckets=_SECONDS,
            registry=self._registry,
        )
        self.in_flight = Gauge(
            "recbole_siger_requests_in_flight", "Requests that are being answered.", registry=self._registry
        )
        self.sources = Counter(
            "recbole_siger_recommendations",
            "Recommendations by their source: user, history or popular.",
            ["source"],
            registry=self._registry,
        )
        self.reloads = Counter(
            "recbole_siger_reloads", "Reloads by status.", ["status"], registry=self._registry
        )
        self.new_items = Gauge("recbole_siger_new_items", "New items in memory.", registry=self._registry)
        self.loaded_at = Gauge(
            "recbole_siger_run_loaded_timestamp_seconds",
            "When the run was loaded, in seconds since 1970.",
            registry=self._registry,
        )

    def finished(self, route: str, status: int, seconds: float) -> None:
        """Count an answered request."""
        self.requests.labels(route, str(status)).inc()
        self.seconds.labels(route).observe(seconds)

    def text(self) -> bytes:
        """Return all measurements."""
        return generate_latest(self._registry)
