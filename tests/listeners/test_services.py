"""Weights & Biases and MLflow, the real packages with what they keep on this machine."""

import json

import pytest
from wandb_file import points

from leapcore import hookimpl, load_spec, run
from leapcore.errors import Interrupted

pytest.importorskip("wandb")
pytest.importorskip("mlflow")
pytest.importorskip("sqlalchemy")


class StopsAt:
    """Presses Ctrl-C after a step."""

    def __init__(self, step):
        self.step = step

    @hookimpl
    def leapcore_metrics(self, step, metrics):
        if step == self.step:
            raise KeyboardInterrupt


@pytest.fixture(scope="module")
def resumed(tmp_path_factory, spec_file):
    """A run that was stopped after step 4 and went on from its checkpoint of step 2."""
    folder = tmp_path_factory.mktemp("services")
    services = f"[{{wandb: {{mode: offline, project: edge}}}}, {{mlflow: {{tracking_uri: 'sqlite:///{folder}/mlflow.db'}}}}]"
    settings = ["train={duration: 5st, batch_size: 64, log_every: 1}", "evaluate.knn=end"]
    spec = load_spec(
        spec_file,
        [
            *settings,
            "checkpoint={every: 1st, keep: 9}",
            f"listeners={services}",
            "curriculum={scheduler: linear, duration: 1ep}",
        ],
    )
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)  # where MLflow puts files beside a database
        with pytest.raises(Interrupted):
            run(spec, output=folder / "run", listeners=[StopsAt(4)])
        return run(spec, output=folder / "run", resume="step-00000002")


def _mlflow_run(report):
    from mlflow import MlflowClient

    client = MlflowClient(f"sqlite:///{report.folder.parent}/mlflow.db")
    return client, client.get_run(json.loads((report.folder / "listeners/mlflow.json").read_text())["run"])


def test_a_resumed_run_is_the_same_one_there_without_doubled_points(resumed):
    client, found = _mlflow_run(resumed)
    assert len(client.search_runs([found.info.experiment_id])) == 1
    there = [
        (m.step, name)
        for name in found.data.metrics
        for m in client.get_metric_history(found.info.run_id, name)
    ]
    known = points(resumed.folder)
    for told in (there, known):
        assert len(told) == len(set(told))
        assert [step for step, name in sorted(told) if name == "loss"] == [1, 2, 3, 4, 5]
        assert [step for step, name in sorted(told) if name == "target_changed"] == [0, 2, 4]
        assert (5, "knn") in told
    files = list(resumed.folder.glob("listeners/wandb/offline-run-*"))
    assert len(files) == 2
    assert len({file.name.split("-")[-1] for file in files}) == 1  # W&B's id of the run


def test_spec_summary_and_links_are_there(resumed):
    client, found = _mlflow_run(resumed)
    assert found.info.status == "FINISHED"
    assert found.data.params["train.batch_size"] == "64"
    assert found.data.metrics["flops.saved"] == pytest.approx(resumed.flops["saved"])
    files = {file.path for file in client.list_artifacts(found.info.run_id)}
    assert files >= {"spec.yaml", "summary.json"}
    links = json.loads((resumed.folder / "summary.json").read_text())["links"]
    assert found.info.run_id in links["mlflow"]
    assert links["wandb"].startswith("wandb sync ")
    assert list(resumed.folder.glob("listeners/wandb/*/files/media/table/curriculum_*.json"))
