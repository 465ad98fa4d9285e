import importlib
import sys
from contextlib import nullcontext
from pathlib import Path
from types import SimpleNamespace

import jsonschema
import pytest
import yaml

from pipeline.config_file import changed_keys, json_schema, load_config
from pipeline.errors import UserError, run_command
from pipeline.run import placed
from tests.conftest import ROOT

GROUPS = "model.subnets=[{scales: [1, 2], encoder_width: 0.5}, {scales: [%s, 4]}]"


def test_a_file_and_overrides_are_read(tmp_path):
    path = tmp_path / "c.yaml"
    path.write_text("train: {steps: 7, learning_rate: 1e-4}\ndata: {train: ~/photos}\n")
    config = load_config(path, ["train.steps=9", "model.interweave=null"])
    assert (config.train.steps, config.train.learning_rate, config.model.interweave) == (9, 1e-4, None)


def test_the_resolved_configuration_reads_back_the_same():
    config = load_config(ROOT / "jobs/configs/photos.yaml", [])
    again = yaml.safe_load(config.to_yaml())
    assert again == config.to_dict()
    assert load_config(
        None, [f"{key}={yaml.safe_dump(value, default_flow_style=True)}" for key, value in again.items()]
    )
    assert changed_keys(again, config.to_dict()) == []


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("train.lerning_rate=1", "did you mean 'train.learning_rate'"),
        ("trian.steps=1", "did you mean 'train'"),
        ("model.encoder.num_block=3", "did you mean 'model.encoder.num_blocks'"),
        ("model.encoder={kind: rdn, num_block: 3}", "did you mean 'model.encoder.num_blocks'"),
        (
            "model.encoder.growth=3",
            "unknown key 'model.encoder.growth'; allowed here: adapt_every, block_channels, chan",
        ),
        ("model.decoder.kind=liff", "model.decoder.kind must be one of liif, srno"),
        ("model.subnets=[{scales: [1, 2], encodr_width: 1}]", "encoder_width"),
        (GROUPS % "2.5", "leave a hole between 2.0 and 2.5"),
        (GROUPS % "1.5", "overlap between 1.5 and 2.0"),
        ("model.subnets=[{scales: [1, 2]}, {scales: [2, 4]}]", "widths must grow"),
        ("train.steps=abc", "valid integer"),
        ("train.steps=yes", r"^train\.steps must be a number, got true .or yes, on.$"),
        ("train.learning_rate=true", r"train\.learning_rate must be a number, got true"),
        ("train.clip_norm=off", r"train\.clip_norm must be a number, got false"),
        ("ray.num_workers=[true, 4]", r"ray\.num_workers\.0 must be a number"),
        ("ray.num_workers=true", r"ray\.num_workers must be a number"),
        ("sampling.full_width_probability=[0, 0, 0, no]", r"full_width_probability\.3 must be a number"),
        ("model.encoder.num_blocks=true", r"model\.encoder\.num_blocks must be a number"),
        ("model.subnets=[{scales: [true, 4]}]", r"model\.subnets\.0\.scales\.0 must be a number"),
        ("train.batch_size=0", "greater than or equal to 1, got 0"),
        ("ray.num_workers=3", "choose a multiple of 3"),
        ("ray.num_workers=[1, 8]", "= 3; choose a multiple of 840, or fewer numbers of workers"),
        ("data.cache=s3://bucket/cache", r"data\.cache: s3://bucket/cache is on S3, but"),
        ("train.init_from=models:/anysr@champion", "write its model file first, with jobs/register.py export"),
        ("train.init_from=gs://bucket/m.pth", r"train\.init_from: gs: is no place"),
        ("data.queries_per_crop=1000000", "smallest HR crop"),
        ("sampling.group_weights=[1]", "1 values for 4 scale groups"),
        ("sampling={groups_per_step: all, group_weights: cost}", "no effect on groups_per_step"),
        ("run.name=a/b", "run.name"),
        ("tracking.registered_model=a.promoting", "must not end with .promoting, as the registry's locks do, got 'a"),
        ("steps", "key.sub=value"),
        ("train=3", r"^train: must hold keys \(accumulate, .*\), as in train\.accumulate=…, got 3$"),
        ("data=[1]", r"^data: must hold keys \(.*, got a list$"),
        ("data=null", r"^data: must hold keys .*, got null$"),
        ("model=[1]", r"^model: must hold keys \(colour, .*, got a list$"),
        ("model.decoder=3", r"^model\.decoder: must hold keys \(.*hidden, kind"),
        ("train.learning_rate=.inf", "finite"),
        ("validation.scales=[]", "at least 1 item"),
        ("validation.scales=[0.5]", r"validation\.scales\.0: Input should be greater than or equal to 1, got 0\.5$"),
        ("validation.scales=[2, 3, 2.0000001]", "x2 stands twice"),
        ("ray.num_workers=0", r"ray\.num_workers: Input should be greater than or equal to 1, got 0$"),
        ("TRAIN.steps=1", "did you mean 'train'"),
        ("model.subnets.0.encoder_width=1", "give all of subnets"),
    ],
)
def test_mistakes_are_refused_in_one_line(override, message):
    with pytest.raises(UserError, match="(?s)" + message.replace("[", r"\[")) as caught:
        load_config(None, [override])
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["model.interweave=null", "model.interweave.interval=3"],
         r"model\.interweave is null, so it has no key interval; give all .*model\.interweave={interval: …}"),
        (["train=3", "train.steps=2"], r"train is 3, so it has no key steps"),
        (["run.name=a", "run.name.b.c=2"], r"run\.name is 'a', so it has no key b; give all of it"),
        ([GROUPS % "2", "model.subnets.7.scales=[1, 2]"], r"model\.subnets has 2 items, the last is 1, so no item 7"),
        ([GROUPS % "2", "model.subnets.0.scales.2=2"], r"model\.subnets\.0\.scales has 2 items, the last is 1, so no"),
        ([GROUPS % "2", "model.subnets.first.scales=[1, 2]"], r"model\.subnets has 2 items, .*, so no item first"),
        (["validation.scales=[]", "validation.scales.0=2"], r"validation\.scales has 0 items, so no item 0"),
    ],
)  # fmt: skip
def test_overrides_of_what_is_not_there_say_what_is(overrides, message):
    with pytest.raises(UserError, match=rf"^cannot apply the override '.*': {message}"):
        load_config(None, overrides)


def test_a_batch_of_all_groups_divides_among_them():
    every_group = "sampling.groups_per_step=all"
    with pytest.raises(
        UserError, match=r"ray\.num_workers x train\.accumulate x the scale groups = 8; choose a multiple"
    ):
        load_config(None, [every_group, "ray.num_workers=2", "train.batch_size=12"])
    with pytest.raises(UserError, match=r"choose a multiple of 4, or sampling\.groups_per_step one$"):
        load_config(None, [every_group, "train.batch_size=6"])
    assert load_config(None, [every_group, "ray.num_workers=2", "train.batch_size=16"])


def test_what_is_true_or_false_stays_so():
    config = load_config(None, ["ray.use_gpu=yes", "train.cuda_graphs=off", "model=ecbsr-m4c16-x4"])
    assert (config.ray.use_gpu, config.train.cuda_graphs) == (True, False)
    assert load_config(None, ["model=ecbsr-m4c16-x4", "model.decoder.collapsed=false"])


@pytest.mark.parametrize("text", ["a: [", "- 1", "\x00"])
def test_files_that_are_no_configuration_are_refused(tmp_path, text):
    path = tmp_path / "c.yaml"
    path.write_text(text)
    with pytest.raises(UserError, match=r"c\.yaml"):
        load_config(path, [])


def test_the_schema_describes_the_shipped_configuration():
    values = yaml.safe_load((ROOT / "jobs/configs/photos.yaml").read_text())
    jsonschema.validate(values, json_schema())
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate({"train": {"lerning_rate": 1}}, json_schema())


def test_every_key_of_the_schema_is_described():
    described = {
        f"{section}.{key}": values.get("description", "")
        for section, definition in json_schema()["$defs"].items()
        for key, values in definition["properties"].items()
    }
    assert [key for key, text in described.items() if not text] == []
    assert described["SubnetConfig.scales"] == "[low, high): the group serves low <= max(s_h, s_w) < high."
    assert described["ModelConfig.subnets"].endswith("One group of width 1 is the plain network.")


def test_a_validation_crop_too_small_for_its_scales_is_refused():
    with pytest.raises(UserError, match="at least 120"):
        load_config(None, ["validation.crop_px=40", "validation.scales=[30]"])


def test_a_model_may_be_named_and_changed():
    assert load_config(None, ["model=rdn-srno"]).model.encoder.kind == "rdn"
    config = load_config(None, ["model=rdn-srno", "model.encoder.num_blocks=2"])
    assert (config.model.encoder.num_blocks, config.model.decoder.kind) == (2, "srno")
    assert load_config(ROOT / "jobs/configs/photos.yaml", ["model=vdsr"]).model.decoder.kind == "vdsr"
    with pytest.raises(UserError, match="did you mean 'rdn-srno"):
        load_config(None, ["model=rdn-sron"])
    with pytest.raises(UserError, match=r"did you mean 'model\.encoder\.num_blocks'"):
        load_config(None, ["model=rdn-srno", "model.encoder.num_block=2"])
    jsonschema.validate({"model": "rdn-srno"}, json_schema())
    jsonschema.validate({"model": {"name": "rdn-srno", "encoder": {"kind": "rdn", "num_blocks": 2}}}, json_schema())


@pytest.mark.parametrize("name", ["2024", "1.10", "010", "0x1F", "1_0", "true"])
def test_a_run_may_be_called_by_a_number(name, tmp_path):
    assert load_config(None, [f"run.name={name}"]).run.name == name
    assert load_config(None, [f"run.name='{name}'"]).run.name == name
    path = tmp_path / "c.yaml"
    path.write_text(f"run: {{name: {name}}}")
    with pytest.raises(UserError, match=r"run\.name"):
        load_config(path, [])
    assert load_config(path, ["run.name=null"]).run.name is None


def test_keys_may_be_merged(tmp_path):
    path = tmp_path / "c.yaml"
    path.write_text("run: {name: a}\ntracking: {<<: {experiment: e}, registered_model: r}\n")
    assert load_config(path).tracking.experiment == "e"
    assert load_config(path).run.name == "a"


def test_a_key_given_twice_is_refused(tmp_path):
    path = tmp_path / "c.yaml"
    path.write_text("train: {steps: 5}\ntrain: {batch_size: 4}\n")
    with pytest.raises(UserError, match="train stands twice"):
        load_config(path, [])


def test_an_empty_section_keeps_its_defaults(tmp_path):
    path = tmp_path / "c.yaml"
    path.write_text("train:\ndata: {on_error: skip}\n")
    assert load_config(path, ["train.steps=7"]).train.steps == 7


def test_a_network_in_the_box_is_no_path(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    train = load_config(None, ["train.init_from=anysr-tiny"]).train
    assert str(train.resolved().init_from) == "anysr-tiny"
    assert load_config(None, ["train.init_from=m.pth"]).train.resolved().init_from == tmp_path / "m.pth"


def test_places_are_read_alike_wherever_one_is_named(tmp_path):
    config = load_config(None, [f"train.init_from=file:{tmp_path}/a%20b.pth", f"data.cache=file:{tmp_path}/cache"])
    assert (config.train.init_from, config.data.cache) == (tmp_path / "a b.pth", tmp_path / "cache")
    assert (
        str(load_config(None, ["train.init_from=s3://bucket/m.pth"]).train.resolved().init_from) == "s3://bucket/m.pth"
    )
    assert placed(load_config(None, [f"run.storage=file:{tmp_path}/runs"])).run.storage == f"{tmp_path}/runs"


@pytest.mark.parametrize(
    ("job", "arguments"),
    [
        ("evaluate", ["--model", "bicubic", "--suite", "x", "--out", "s3://bucket/rows"]),
        ("evaluate", ["--model", "bicubic", "--suite", "x", "--report", "s3://bucket/report.html"]),
        ("report", ["rows", "--report", "s3://bucket/report.html"]),
        ("prepare_data", ["--root", "s3://bucket/data"]),
    ],
)
def test_what_must_be_on_this_machine_is_refused_on_s3_before_anything_is_done(
    monkeypatch, tmp_path, capsys, job, arguments
):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", [job, *arguments])
    assert run_command(importlib.import_module(f"jobs.{job}").main) == 2
    assert f"error: {arguments[-1]} is on S3, but this must be on this machine" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("remote", [False, True])
def test_paths_are_this_machines_unless_the_address_is_a_tunnels(monkeypatch, remote):
    from pipeline.on_ray import submit

    sent = []
    monkeypatch.setattr(
        submit, "follow_job", lambda root, files, python, arguments, *rest: sent.append((python, arguments))
    )
    monkeypatch.setattr(sys, "argv", ["upscale.py", "a", *(["--remote"] if remote else [])])
    submit.submit_command(ROOT, "jobs/upscale.py", "http://127.0.0.1:8265")
    ((python, arguments),) = sent
    assert (python == "python", arguments == ["a"]) == (remote, remote)


@pytest.mark.parametrize(
    ("address", "is_here"),
    [
        ("auto", True),
        ("local", True),
        ("localhost:6379", True),
        ("http://127.0.0.1:8265", True),
        ("http://[::1]:8265", True),
        ("ray://[::1]:10001", True),
        ("http://head:8265", False),
        ("[2001:db8::1]:6379", False),
        ("", False),
    ],
)
def test_addresses_of_this_machine_are_known(address, is_here, monkeypatch):
    from pipeline.on_ray import submit

    cards = {"lo": [SimpleNamespace(address="127.0.0.1"), SimpleNamespace(address="::1")]}
    monkeypatch.setattr(submit.psutil, "net_if_addrs", lambda: cards)
    assert submit.is_this_machine(address) == is_here


@pytest.mark.parametrize("uri", ["http://me:secret@host:5000", "postgresql://me@host/x?password=secret"])
def test_a_job_with_a_password_in_its_command_is_refused(uri):
    from pipeline.on_ray.submit import follow_job

    with pytest.raises(UserError, match="holds a password") as refused:
        follow_job(ROOT, {}, "python", ["--tracking-uri", uri], {})
    with pytest.raises(UserError, match=r"tracking\.uri holds a password"):
        load_config(None, [f"tracking.uri={uri}"])
    assert "secret" not in str(refused.value)


def test_relative_paths_of_photos_are_made_absolute(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    from pipeline.on_ray.submit import local_paths

    given = ["data.train=photos", "tracking.uri=sqlite:///x.db", "train.init_from=plain.safetensors"]
    overrides = local_paths(load_config(None, given))
    assert f'train.init_from="{tmp_path}/plain.safetensors"' in overrides
    assert f'data.train="{tmp_path}/photos"' in overrides
    assert f'tracking.uri="sqlite:///{tmp_path}/x.db"' in overrides
    assert load_config(None, overrides).data.train == tmp_path / "photos"


def test_the_database_of_a_folder_that_yaml_would_cut_short(monkeypatch, tmp_path):
    from pipeline.on_ray.submit import local_paths

    (tmp_path / "a #b").mkdir()
    monkeypatch.chdir(tmp_path / "a #b")
    overrides = local_paths(load_config(None, []), own_cluster=True)
    assert load_config(None, overrides).tracking.uri == f"sqlite:///{tmp_path}/a #b/mlflow.db"


def test_a_running_cluster_keeps_its_mlflow_server_where_none_is_named_here(monkeypatch, tmp_path):
    from pipeline.on_ray.submit import local_paths

    def named(*overrides):
        config = load_config(None, overrides)
        return load_config(None, [*overrides, *local_paths(config)]).tracking.uri

    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    assert named() is None
    assert named("tracking.uri=http://host:5000") == "http://host:5000"
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "sqlite:///x.db")
    assert named() == f"sqlite:///{tmp_path}/x.db"
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://host:5000")
    assert named() is None  # the variable goes along


@pytest.mark.parametrize("address", [None, "http://127.0.0.1:8265"])
def test_only_a_cluster_started_here_is_given_this_folders_database(monkeypatch, tmp_path, address):
    from jobs import submit

    sent = []
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    monkeypatch.setattr(submit, "LocalCluster", lambda: nullcontext(SimpleNamespace(environment={})))
    monkeypatch.setattr(submit, "follow_job", lambda root, files, python, arguments, *rest: sent.extend(arguments))
    monkeypatch.setattr(submit, "exit_on_signals", lambda: None)
    monkeypatch.setattr(sys, "argv", ["submit.py"])
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    if address:
        monkeypatch.setenv("RAY_ADDRESS", address)
    submit.main()
    assert (f'tracking.uri="sqlite:///{tmp_path}/mlflow.db"' in sent) == (address is None)


def test_a_configuration_on_s3_is_read_and_sent_along(monkeypatch):
    from pipeline.on_ray import submit
    from pipeline.storage import s3
    from pipeline.storage.places import parse_place

    monkeypatch.setattr(s3, "read", lambda uri: b"train: {steps: 7}" if uri.key == "best.yaml" else None)
    place = parse_place("s3://bucket/best.yaml")
    assert load_config(place).train.steps == 7
    with pytest.raises(UserError, match=r"s3://bucket/none\.yaml: no such file"):
        load_config(parse_place("s3://bucket/none.yaml"))
    sent = []
    monkeypatch.setattr(
        submit, "_follow", lambda stage, *rest, **_: sent.append((Path(stage) / "config.yaml").read_text())
    )
    submit.follow_job(ROOT, {"--config": place}, "python", [], {})
    assert sent == ["train: {steps: 7}"]


def test_a_refusal_of_one_kind_of_network_leaves_what_is_known_of_others():
    with pytest.raises(UserError):
        load_config(None, ["model.encoder={kind: rdn, growth: 0.5}"])
    with pytest.raises(UserError, match=r"model\.encoder\.num_blocks must be a number, got true"):
        load_config(None, ["model.encoder={kind: rcan, num_blocks: true}"])
    with pytest.raises(UserError, match=r"model\.encoder\.residual_scale must be a number, got true"):
        load_config(None, ["model.encoder={kind: edsr, residual_scale: true}"])
