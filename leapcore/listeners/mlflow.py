"""MLflow: metrics, parameters and files of a run in a tracking server or a database."""

from __future__ import annotations

import logging
import os
import time
from itertools import islice
from pathlib import Path
from typing import Any

from leapcore.listeners.tracker import Service, summary
from leapcore.plugins.events import RunReport, RunStart
from leapcore.plugins.hooks import hookimpl
from leapcore.runs.names import PAGE, SPEC, SUMMARY
from leapcore.spec.section import flat

# A server that does not answer holds the run up for about a minute and a half; MLflow's own are 17 minutes.
_TIMEOUTS = {"MLFLOW_HTTP_REQUEST_TIMEOUT": "20", "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "3"}
STATUS = {"finished": "FINISHED", "interrupted": "KILLED"}
PARAMS, LONGEST = 100, 6000  # at once, and characters of a value: what MLflow takes
FILES = (SPEC, SUMMARY, PAGE)


class MLflow(Service):
    """A run in an MLflow experiment.

    Args:
        experiment: Its name; made if it is not there.
        tracking_uri: The server (``https://…``) or database (``sqlite:///mlflow.db``); null leaves it to
            MLFLOW_TRACKING_URI and MLflow's default.
    """

    name = "mlflow"
    needs = ("mlflow", 'pip install "leapcore[mlflow]"')

    def __init__(self, *, experiment: str = "leapcore", tracking_uri: str | None = None) -> None:
        self._experiment = experiment
        self._uri = tracking_uri
        self._client: Any = None
        self._folder = Path()
        self._status = "FAILED"

    def _open(self, start: RunStart) -> str:
        for name, value in _TIMEOUTS.items():
            os.environ.setdefault(name, value)
        from mlflow import MlflowClient

        for name in ("mlflow", "alembic"):  # which log every table that they make
            logging.getLogger(name).setLevel(logging.WARNING)
        self._folder = start.folder.resolve()
        client = MlflowClient(tracking_uri=self._uri)
        if self.run:
            client.update_run(self.run, status="RUNNING")
        else:
            self.run = _begun(client, self._experiment, start)
        self._client = client
        return _link(client, self.run)

    def _send(self, step: int, figures: dict[str, float]) -> None:
        from mlflow.entities import Metric

        now = int(time.time() * 1000)
        metrics = [Metric(name, float(value), now, step) for name, value in figures.items()]
        self._client.log_batch(self.run, metrics=metrics)

    @hookimpl
    def leapcore_run_finished(self, report: RunReport) -> None:
        """Add the summary's numbers as metrics, and the files that describe the run."""
        self._status = STATUS.get(report.status, "FAILED")
        numbers = {key: value for key, value in summary(report).items() if not isinstance(value, str)}
        self._send(report.steps, numbers)
        self._client.set_tag(self.run, "status", report.status)
        for path in (self._folder / name for name in FILES):
            if path.exists():
                self._client.log_artifact(self.run, str(path))

    def close(self) -> None:
        """Say how the run ended."""
        if self._client is not None:
            self._client.set_terminated(self.run, self._status)


def _begun(client: Any, experiment: str, start: RunStart) -> str:
    """A new run with the spec as its parameters, which MLflow lets nobody change later."""
    from mlflow.entities import Param

    tags = {"folder": str(start.folder.resolve())}
    run = client.create_run(
        _experiment_id(client, experiment), tags=tags, run_name=start.spec.name
    ).info.run_id
    values = flat(start.spec.model_dump(mode="json"))
    params = iter([Param(key, str(value)[:LONGEST]) for key, value in values])
    while some := list(islice(params, PARAMS)):
        client.log_batch(run, params=some)
    return str(run)


def _experiment_id(client: Any, name: str) -> str:
    from mlflow.exceptions import MlflowException

    try:
        return str(client.create_experiment(name))
    except MlflowException:  # it is there, perhaps since another run made it at this moment
        if (existing := client.get_experiment_by_name(name)) is None:
            raise
        return str(existing.experiment_id)


def _link(client: Any, run: str) -> str:
    uri, experiment = client.tracking_uri, client.get_run(run).info.experiment_id
    if uri.startswith("http"):
        return f"{uri.rstrip('/')}/#/experiments/{experiment}/runs/{run}"
    return f"run {run} in {uri}"
