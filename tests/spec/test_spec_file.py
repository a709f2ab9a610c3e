import pytest

from leapcore import Duration, load_spec
from leapcore.errors import LeapcoreError, SpecError, UnknownNameError
from leapcore.recipes import recipe_names

MINIMAL = """\
name: small
teacher: {backbone: vit, weights: "asset:digits-vit"}
student: {backbone: vit, model: vit_tiny_patch16_224}
data:
  source: digits
  image_size: 32
curriculum:
  scheduler: cka
"""


@pytest.fixture
def spec_of(tmp_path, monkeypatch):
    """Loads a spec from text, from the working directory, so that messages show a short name."""
    monkeypatch.chdir(tmp_path)

    def load(text, *overrides):
        (tmp_path / "spec.yaml").write_text(text)
        return load_spec("spec.yaml", overrides)

    return load


def test_defaults_are_the_papers(spec_of):
    spec = spec_of(MINIMAL)
    assert spec.optimizer.name == "lars"
    assert spec.optimizer.lr == pytest.approx(6 * (spec.train.batch_size / 1536) ** 0.5, rel=1e-3)
    assert spec.train.duration == Duration(100, "ep")
    assert spec.objective.cls_weight == 0.05
    assert spec.curriculum.options["threshold"] == 0.85
    assert spec.curriculum.options["max_time_per_layer"] == "5ep"


def test_the_resolved_spec_loads_to_the_same_spec(spec_of):
    spec = spec_of(MINIMAL, "train.duration=2000st", "optimizer.lr=1e-3", "evaluate.knn=10ep")
    assert spec_of(spec.to_yaml()) == spec


@pytest.mark.parametrize("name", recipe_names())
def test_every_recipe_is_valid_once_its_data_is_there(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for data in (".", "imagenet100", "imagenet1k"):
        for split in ("train", "val"):
            (tmp_path / "data" / data / split).mkdir(parents=True)
            (tmp_path / "data" / data / split / "0.png").touch()
    assert load_spec(name).name == name


def test_overrides_are_typed_as_in_the_file(spec_of):
    spec = spec_of(MINIMAL, "train.seed=7", "data.augment.flip=0", "student.options.depth=3")
    assert (spec.train.seed, spec.data.augment.flip, spec.student.options) == (7, 0, {"depth": 3})


def test_another_scheduler_from_the_command_line_drops_the_old_ones_options(spec_of, caplog):
    text = MINIMAL + "  threshold: 0.9\n  start: first\n"
    spec = spec_of(text, "curriculum.scheduler=fixed", "curriculum.layer=3")
    assert spec.curriculum.options == {"layer": 3}
    assert caplog.messages == ["scheduler 'fixed' takes no threshold, start: dropped"]


WRONG = {
    "unknown key": ("  source: digits", "  sorce: digits", r"spec.yaml:5: data.sorce: unknown key. Did you mean 'source'\?"),
    "missing key": ("  source: digits\n", "", "spec.yaml:4: data.source: is missing"),
    "unknown section": ("name: small", "name: small\ntrian: {}", r"spec.yaml:2: trian: unknown key. .*'train'"),
    "wrong type": ("image_size: 32", "image_size: big", "spec.yaml:6: data.image_size: should be an integer.*got 'big'"),
    "out of range": ("image_size: 32", "image_size: 0", "spec.yaml:6: data.image_size: should be greater than 0, got 0"),
    "nested": ("image_size: 32", "image_size: 32\n  augment: {flip: 2}", "spec.yaml:7: data.augment.flip: .*less than or equal to 1"),
    "duration": ("scheduler: cka", "scheduler: cka\n  max_time_per_layer: 5 weeks", "spec.yaml:9: curriculum.max_time_per_layer: .*'5ep'"),
    "choice": ("name: small", "name: small\noptimizer: {schedule: cosin}", "spec.yaml:2: optimizer.schedule: should be 'cosine' or"),
    "union": ("name: small", "name: small\nevaluate: {knn: often}", "spec.yaml:2: evaluate.knn: .*'5ep'.*; or .*'end' or 'never'"),
    "zero duration": ("name: small", "name: small\ntrain: {duration: 0ep}", "train.duration: .*at least one"),
    "scheduler option": ("scheduler: cka", "scheduler: cka\n  treshold: 1", r"spec.yaml:9: curriculum.treshold: the scheduler .cka. has no such option. .*'threshold'"),
    "scheduler value": ("scheduler: cka", "scheduler: cka\n  ema: 2", "spec.yaml:9: curriculum.ema: .*less than or equal to 1, got 2"),
    "name as path": ("name: small", "name: ../small", "spec.yaml:1: name: should be letters"),
    "not finite": ("name: small", "name: small\noptimizer: {lr: .inf}", "spec.yaml:2: optimizer.lr: .*finite"),
    "crop order": ("image_size: 32", "image_size: 32\n  augment: {scale: [1, 0.5]}", "data.augment.scale: the smallest share comes first"),
    "section as value": ("teacher: {backbone: vit, weights: \"asset:digits-vit\"}", "teacher: vit", "spec.yaml:2: teacher: "),
}  # fmt: skip


@pytest.mark.parametrize("fault", WRONG)
def test_a_fault_is_told_with_line_key_and_cause(spec_of, fault):
    old, new, message = WRONG[fault]
    assert old in MINIMAL
    with pytest.raises(SpecError, match=message):
        spec_of(MINIMAL.replace(old, new))


def test_all_faults_are_told_at_once(spec_of):
    with pytest.raises(SpecError) as caught:
        spec_of(MINIMAL.replace("name: small", "nmae: small").replace("32", "-1"))
    assert [line.split(": ")[1] for line in caught.value.cause.splitlines()] == [
        "name",
        "data.image_size",
        "nmae",
    ]


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("scheduler: cka", "scheduler: ckaa", r"spec.yaml:8: curriculum.scheduler: unknown scheduler 'ckaa'\nDid you mean 'cka'"),
        ("vit, model", "vitt, model", r"spec.yaml:3: student.backbone: unknown backbone 'vitt'\nDid you mean 'vit'"),
        ("source: digits", "source: digit", r"spec.yaml:5: data.source: unknown data source 'digit'\nDid you mean 'digits'"),
        ("name: small", "name: small\nobjective: {patch: mes}", r"spec.yaml:2: objective.patch: unknown loss 'mes'\nDid you mean 'mse'"),
    ],
)  # fmt: skip
def test_unknown_names_come_with_a_suggestion(spec_of, old, new, message):
    with pytest.raises(UnknownNameError, match=message):
        spec_of(MINIMAL.replace(old, new))


NONSENSE = {
    "scale": ("restart: {scale: 0.3}", "scale belongs to peak: rising_gap"),
    "decay": ("restart: {peak_decay: 0.1}", "peak_decay needs a warmup at every start"),
    "peak": ("restart: {peak: gap, warmup: 1ep}", "climbs to the full peak, not to 'gap'"),
    "constant": ("schedule: constant, restart: {}", "a constant rate has nothing to restart"),
    "two warm-ups": ("warmup: 2ep, restart: {warmup: 1ep}", "takes the place of warmup: give one"),
    "constant warm-up": ("constant_warmup: true", "needs a restart without a warmup"),
}


@pytest.mark.parametrize("case", NONSENSE)
def test_combinations_that_make_no_sense_are_refused_with_the_reason(spec_of, case):
    section, message = NONSENSE[case]
    with pytest.raises(SpecError, match=f"spec.yaml:2: optimizer.*{message}"):
        spec_of(MINIMAL.replace("name: small", f"name: small\noptimizer: {{{section}}}"))


@pytest.mark.parametrize(
    ("sections", "message"),
    [
        ("objective: {cls_head: separate, cls_weight: 0}", "never be trained"),
        ("objective: {reset_projector: true}\nengine: {zero_stage: 1}", "needs engine.zero_stage: 0"),
    ],
)
def test_objectives_that_make_no_sense_are_refused(spec_of, sections, message):
    with pytest.raises(SpecError, match=message):
        spec_of(MINIMAL + sections)


def test_all_schedulers_take_their_options(spec_of):
    for options in (
        "scheduler: cosine, threshold: 0.9, measure_every: 5, sample_images: 8",
        "scheduler: cka, unbiased: true",
        "scheduler: plateau, patience: 2ep, min_gain: 0.02, start: 3",
        "scheduler: linear, duration: 60ep",
        "scheduler: steps, at: {0ep: 1, 10ep: 6, 2000st: 12}",
        "scheduler: random, every: 1ep, seed: 3",
    ):
        spec = spec_of(MINIMAL.replace("curriculum:\n  scheduler: cka", f"curriculum: {{{options}}}"))
        assert spec_of(spec.to_yaml()) == spec


def test_faults_of_overrides_name_the_override(spec_of):
    with pytest.raises(SpecError, match=r"--set: train.seed: should be an integer"):
        spec_of(MINIMAL, "train.seed=lucky")


def test_a_section_that_a_later_override_empties(spec_of):
    with pytest.raises(SpecError, match="curriculum: should be a section of keys"):
        spec_of(MINIMAL, "curriculum.scheduler=fixed", "curriculum=")


def test_a_fault_in_a_section_that_only_an_override_names(spec_of):
    with pytest.raises(SpecError, match=r"--set: engine\.zero: unknown key|engine\.zero: unknown key"):
        spec_of(MINIMAL, "engine.zero.stage=1")


def test_a_file_that_is_no_text(spec_of, tmp_path):
    (tmp_path / "latin.yaml").write_bytes(b"name: caf\xe9")
    (tmp_path / "bell.yaml").write_bytes(b"name: \x07")
    with pytest.raises(SpecError, match=r"latin\.yaml: cannot be read"):
        load_spec(tmp_path / "latin.yaml")
    with pytest.raises(SpecError, match=r"bell\.yaml: this is not YAML"):
        load_spec(tmp_path / "bell.yaml")


@pytest.mark.parametrize(
    ("override", "message"),
    [("train.seed", "not of the form key=value"), ("name.x=1", "'name' is a value"), ("a.b=[", "not YAML")],
)
def test_malformed_overrides(spec_of, override, message):
    with pytest.raises(SpecError, match=message):
        spec_of(MINIMAL, override)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("name: [a, b\nteacher: 1", r"spec.yaml:\d: this is not YAML"),
        ("name: a\nname: b", "spec.yaml:2: this is not YAML: found duplicate key"),
        ("- a list", "spec.yaml: a spec is a mapping"),
        ("", "spec.yaml: a spec is a mapping"),
    ],
)
def test_broken_yaml(spec_of, text, message):
    with pytest.raises(SpecError, match=message):
        spec_of(text)


def test_a_missing_file_suggests_recipes(tmp_path):
    with pytest.raises(
        SpecError, match=r"'quickstrat' is neither a file nor a recipe\nDid you mean 'quickstart'"
    ):
        load_spec("quickstrat")
    with pytest.raises(SpecError, match="neither a file"):
        load_spec(tmp_path / "missing.yaml")


def test_yaml_cannot_run_code(spec_of):
    with pytest.raises(SpecError):
        spec_of("name: !!python/object/apply:os.system ['true']")


TEACHERS = """
name: two
teachers:
  deep: {backbone: vit, weights: "asset:digits-vit"}
  flat: {backbone: vit, weights: "asset:digits-vit", weight: 0.5, curriculum: {scheduler: fixed, layer: 3}}
student: {backbone: vit, model: vit_tiny_patch16_224}
data: {source: digits, image_size: 32}
"""


def test_each_of_several_teachers_has_its_curriculum_and_weight(spec_of):
    spec = spec_of(TEACHERS)
    assert {name: c.scheduler for name, c in spec.curricula.items()} == {"deep": "cka", "flat": "fixed"}
    assert spec.teachers["flat"].curriculum.options == {"layer": 3}
    assert [teacher.weight for teacher in spec.each_teacher.values()] == [1.0, 0.5]
    assert list(load_spec("quickstart").each_teacher) == ["teacher"]


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("weight: 0.5", "weight: 0", "spec.yaml:5: teachers.flat.weight: should be greater than 0, got 0"),
        (
            "weight: 0.5",
            "wieght: 1",
            "spec.yaml:5: teachers.flat.wieght: unknown key. Did you mean 'weight'?",
        ),
        (
            "layer: 3",
            "layr: 3",
            "spec.yaml:5: teachers.flat.curriculum.layr: the scheduler 'fixed' has no such option. Did you mean 'layer'?",
        ),
        ("fixed", "fixd", "spec.yaml:5: teachers.flat.curriculum.scheduler: unknown scheduler 'fixd'"),
        (
            "deep: {backbone: vit",
            "deep: {backbone: vti",
            "spec.yaml:4: teachers.deep.backbone: unknown backbone 'vti'",
        ),
        ("deep: {", "a.b: {", r"spec.yaml:4: teachers.a.b: should be letters, digits, '_' or '-'"),
        ('asset:digits-vit"}', 'nowhere.pth"}', "nowhere.pth"),
        (
            "name: two",
            'name: two\nteacher: {backbone: vit, weights: "asset:digits-vit"}',
            "give 'teacher' or 'teachers'",
        ),
    ],
)
def test_faults_of_one_of_several_teachers_are_named_where_they_are(spec_of, old, new, message):
    assert old in TEACHERS
    with pytest.raises(LeapcoreError) as caught:
        spec_of(TEACHERS.replace(old, new, 1))
    assert message in str(caught.value)


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (
            ["objective.target=all"],
            "leaves a curriculum nothing to choose: write {scheduler: fixed}\nAll keys",
        ),
        (["objective.target=all", "curriculum={scheduler: fixed, layer: 3}"], "nothing to choose"),
        (["objective.reduction=sum"], "reduction belongs to target: all, not to target: layer"),
        (["objective.target=both"], "objective.target: should be 'layer', 'layer+last' or 'all', got 'both'"),
        (["objective.patch_embedding=-1"], "objective.patch_embedding: should be greater than or equal to 0"),
    ],
)
def test_targets_that_make_no_sense_are_refused_with_the_reason(overrides, message):
    with pytest.raises(SpecError) as caught:
        load_spec("quickstart", overrides)
    assert message in str(caught.value)


def test_a_run_without_a_teacher_is_told_of_both_ways_to_name_one(spec_of):
    with pytest.raises(SpecError, match=r"^spec.yaml:1: a run has one teacher, or several teachers: give"):
        spec_of(MINIMAL.replace("teacher:", "#"))


def test_another_scheduler_of_one_teacher_drops_the_old_ones_options_too(spec_of, caplog):
    spec = spec_of(TEACHERS, "teachers.flat.curriculum.scheduler=cka")
    assert "scheduler 'cka' takes no layer: dropped" in caplog.text
    assert spec.curricula["flat"].options["threshold"] == 0.85


def test_a_fault_inside_a_mapping_from_the_command_line_is_located_there(spec_of):
    with pytest.raises(SpecError, match=r"^--set: teachers.a.wieght: unknown key"):
        spec_of(TEACHERS, "teachers={a: {backbone: vit, wieght: 1}}")
