"""Small folders as benches and runs leave them, with figures that a test can foresee."""

import json
import math
import random

MACHINE = {
    "leapcore": "0.1.0",
    "torch": "2.13.0",
    "python": "3.11.7",
    "device": "cpu",
    "processes": 1,
    "threads": 2,
}
DEPTH = 5
BASE_KNN, GAIN = 0.80, {"fixed": 0.0, "leap": 0.02, "random": -0.03}


def write_bench(
    folder,
    teachers=("vit", "convnext"),
    students=("vit", "hybrid"),
    methods=("fixed", "leap", "random"),
    seeds=(0, 1, 2),
    state=None,
    planned=lambda cell: True,
    **run,
):
    """A bench whose cells are in the state that ``state(cell)`` gives: a run's, "waiting" or half.

    ``planned`` picks the cells that the matrix has.
    """
    cells = [
        {"name": f"{t}.{s}.{m}.s{seed}", "teacher": t, "student": s, "method": m, "seed": seed}
        for t in teachers
        for s in students
        for m in methods
        for seed in seeds
    ]
    cells = list(filter(planned, cells))
    matrix = {
        "name": "transfer",
        "baseline": "fixed",
        "teachers": list(teachers),
        "students": list(students),
        "methods": list(methods),
        "seeds": list(seeds),
        "families": {"teachers": {t: t for t in teachers}, "students": {s: s for s in students}},
        "cells": cells,
    }
    (folder / "logs").mkdir(parents=True)
    (folder / "matrix.json").write_text(json.dumps(matrix))
    (folder / "bench.yaml").write_text("name: transfer\nseeds: [0, 1, 2]\n")
    for cell in cells:
        status = state(cell) if state else "finished"
        if status == "failed":
            (folder / "logs" / f"{cell['name']}.failed").write_text(
                "Error: out of <memory> & luck\nmore of it\n"
            )
        if status != "waiting":
            write_run(
                folder / "runs" / cell["name"],
                cell["method"],
                cell["seed"],
                status,
                shift=0.01 * students.index(cell["student"]),
                **run,
            )
    return folder


def knn(method, seed, shift=0.0):
    return (
        BASE_KNN + GAIN.get(method, 0.01) + shift + 0.004 * seed + (0.001 * seed if method == "leap" else 0)
    )


def write_run(
    folder, method="leap", seed=0, status="finished", shift=0.0, steps=60, maps=(0, 60), layers=(4, 5)
):
    folder.mkdir(parents=True)
    (folder / "spec.yaml").write_text(
        f"name: {method}\ncurriculum: {{scheduler: {method}, threshold: {0.9 if method == 'leap' else 'null'}}}\ntrain: {{seed: {seed}}}\n"
    )
    end = steps if status == "finished" else steps // 2
    changes = [c for c in _changes(method, steps, seed) if c["step"] <= end]
    lines = [{"event": "target_changed", **c} for c in changes] + _figures(method, seed, end, steps, shift)
    lines.sort(key=lambda line: line["step"])
    (folder / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    moments = [moment for moment in maps if moment <= end]
    (folder / "cka_maps.jsonl").write_text(
        "".join(json.dumps(_map(moment / steps, moment, *layers)) + "\n" for moment in moments)
    )
    if status in ("finished", "interrupted"):
        (folder / "summary.json").write_text(json.dumps(_summary(method, seed, status, end, changes, shift)))
    return folder


def _changes(method, steps, seed):
    if method == "fixed":
        return [{"step": 0, "previous": 0, "target": DEPTH, "reason": "start", "teacher": "teacher"}]
    moments = [0, *(round(steps * (0.5 * k / DEPTH + 0.01 * seed)) for k in range(1, DEPTH))]
    return [
        {"step": step, "previous": k, "target": k + 1, "reason": "time is up", "teacher": "teacher"}
        for k, step in enumerate(moments)
    ]


def _figures(method, seed, end, steps, shift):
    draw, lines = random.Random(f"{method}{seed}"), []
    for step in range(max(1, steps // 60), end + 1, max(1, steps // 60)):
        loss = math.exp(-3 * step / steps) + 0.1 + 0.02 * draw.random()
        figures = {
            "step": step,
            "loss": loss,
            "images_per_second": 500 + 40 * draw.random(),
            "data_wait": 0.1 * draw.random(),
        }
        if method != "fixed":
            figures["alignment"] = 0.9 - 0.3 * abs(math.sin(9 * step / steps)) + 0.05 * draw.random()
        lines.append(figures)
        if step % max(1, steps // 4) == 0:
            lines.append({"step": step, "knn": knn(method, seed, shift) * (1 - math.exp(-5 * step / steps))})
    return lines


def _map(progress, step, students, teachers):
    cka = [
        [max(0.0, progress - 0.15 * abs(s / students - t / teachers)) for t in range(teachers)]
        for s in range(students)
    ]
    return {
        "step": step,
        "teacher": "teacher",
        "images": 256,
        "student_layers": [f"blocks.{i}" for i in range(students)],
        "teacher_layers": [f"blocks.{i}" for i in range(teachers)],
        "cka": cka,
    }


def _summary(method, seed, status, steps, changes, shift):
    saved = 0.0 if method == "fixed" else 0.2 + 0.01 * seed
    spent = 1e12 * (1 - saved)
    share = knn(method, seed, shift)
    accuracy = {"knn": share, "linear": share + 0.05, "teacher_knn": 0.95} if status == "finished" else {}
    return {
        "name": method,
        "folder": "x",
        "status": status,
        "steps": steps,
        "accuracy": accuracy,
        "flops": {
            "spent": spent,
            "baseline": 1e12,
            "saved": saved,
            "spent_by_part": {"teacher": spent / 2, "student": spent / 2, "alignment": 0},
        },
        "time": {"seconds": 100.0, "training_seconds": 80.0 * (1 - saved), "images_per_second": 512.0},
        "student": {"folder": "x", "parameters": 1000, "load": ""},
        "teachers": {"teacher": {"parameters": 5000, "layers": DEPTH}},
        "curriculum": changes,
        "machine": MACHINE,
    }
