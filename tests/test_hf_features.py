"""Features by models of Hugging Face, against a plain forward pass of transformers."""

import itertools
from types import SimpleNamespace

import numpy as np
import pytest
import soundfile
from test_prepare_features import held, write

from data_pipelines.features.choose import Asked
from data_pipelines.features.hf import audio, opened, pixels, text, video
from data_pipelines.features.prepare import prepare
from neurofm.errors import NeuroFMError

WORDS = ("whale", "a", "seas", "ale", "was", "he", "lashes", "as")


@pytest.fixture
def hf():
    pytest.importorskip("torch")
    found = pytest.importorskip("transformers")
    opened._load.cache_clear()
    return found


# ---- without the extra ---------------------------------------------------------------


@pytest.mark.parametrize("name", ["hf_text", "hf_audio", "hf_video"])
def test_without_the_extra_its_name_is_told(tmp_path, monkeypatch, name):
    monkeypatch.setattr(opened, "find_spec", lambda name: None)
    rows = [(kind, 0, 1, "a", "", "x", "") for kind in ("word", "sound", "video")]
    table = write(tmp_path / "events.tsv", rows)
    with pytest.raises(NeuroFMError, match=r"pip install 'neurofm\[hf\]'"):
        prepare(table, tmp_path / "d", Asked(name, model=str(tmp_path)))
    with pytest.raises(NeuroFMError, match=f"{name} needs --model"):
        prepare(table, tmp_path / "d", Asked(name))
    assert not (tmp_path / "d").exists()


def test_sound_is_cut_into_minutes_and_a_short_rest_is_joined():
    for length, edges in (
        (7.5, [0, 7.5]),
        (89, [0, 89]),
        (90, [0, 60, 90]),
        (149.5, [0, 60, 149.5]),
        (150.0, [0, 60, 120, 150]),
    ):
        np.testing.assert_array_equal(audio.piece_edges(length), edges)


@pytest.mark.parametrize("rate", ["16k", None, 0, float("inf")])
def test_an_extractor_without_a_rate_is_told(rate):
    assert audio.rate_of(SimpleNamespace(sampling_rate=16_000)) == 16_000.0
    with pytest.raises(NeuroFMError, match=r"sampling_rate is .* no rate in Hz"):
        audio.rate_of(SimpleNamespace(sampling_rate=rate))


def test_a_clip_holds_four_seconds_before_the_end_of_its_step():
    at = video.frame_numbers(10, 2.0, 24.0, 8, 118)
    assert at.shape == (10, 8)
    # Step 8 ends at 4.5 s: from 1 s on, every half second.
    assert at[8].tolist() == [24 + 12 * k for k in range(8)]
    # Step 1 ends at 1 s: what is before the film is its first frame.
    assert at[1].tolist() == [0, 0, 0, 0, 0, 0, 12, 24]
    assert at[9, -1] == 117  # the last frame there is
    assert video.frame_numbers(3, 2.0, 24.0, 1, 99).tolist() == [[12], [24], [36]]


def test_a_word_is_read_with_all_before_it_up_to_a_number(monkeypatch):
    monkeypatch.setattr(text, "CONTEXT", 2)
    assert text.contexts(["a", "b", "c", "d"]) == [
        ("", "a"),
        ("a", "a b"),
        ("a b", "a b c"),
        ("b c", "b c d"),
    ]


def test_pixels_are_cut_from_the_middle_scaled_and_normalised():
    frame = np.random.default_rng(0).integers(0, 255, (1, 6, 9, 3), np.uint8)
    settings = {"do_resize": False, "crop_size": {"height": 4, "width": 5}}
    settings |= {"image_mean": [0.1, 0.2, 0.3], "image_std": [0.5, 0.6, 0.7]}
    x = pixels.prepared(frame, settings)
    assert x.shape == (1, 3, 4, 5)
    assert x[0, 1, 0, 2] == pytest.approx((frame[0, 1, 4, 1] / 255 - 0.2) / 0.6)
    flat = np.full((1, 6, 9, 3), 51, np.uint8)
    by_edge = pixels.prepared(flat, {"size": {"shortest_edge": 4}})
    assert by_edge.shape == (1, 3, 4, 6)
    np.testing.assert_allclose(by_edge, 0.2, rtol=1e-6)
    with pytest.raises(NeuroFMError, match="give larger ones"):
        pixels.prepared(flat, {"crop_size": 7})
    odd = (
        {"do_resize": True},
        {"size": [4, 4]},
        {"do_normalize": True},
        {"resample": 77},
    )
    for settings in (*odd[:3], {"size": 4, **odd[3]}, {"rescale_factor": "a"}):
        with pytest.raises(NeuroFMError, match="settings in preprocessor_config"):
            pixels.prepared(flat, settings)


# ---- with it -------------------------------------------------------------------------


def spelling(hf, folder):
    """A tokenizer whose words fall into pieces."""
    import tokenizers

    pieces = ["[UNK]", "wh", "##ale", "ale", "sea", "##s", "##a", "##sh", "##e"]
    pieces += [*"awhls", *(f"##{c}" for c in "awhls")]
    known = {piece: i for i, piece in enumerate(dict.fromkeys(pieces))}
    model = tokenizers.models.WordPiece(known, unk_token="[UNK]")
    raw = tokenizers.Tokenizer(model)
    raw.pre_tokenizer = tokenizers.pre_tokenizers.Whitespace()
    found = hf.PreTrainedTokenizerFast(tokenizer_object=raw, unk_token="[UNK]")
    found.save_pretrained(folder)
    return found


def language_model(hf, kind):
    if kind == "bert":
        config = hf.BertConfig(
            vocab_size=30,
            hidden_size=12,
            num_hidden_layers=2,
            num_attention_heads=2,
            intermediate_size=14,
            max_position_embeddings=11,
        )
        return hf.BertModel(config)
    config = hf.GPT2Config(
        vocab_size=30, n_embd=12, n_layer=2, n_head=2, n_positions=99
    )
    return hf.GPT2Model(config)


@pytest.mark.parametrize("kind", ["bert", "gpt2"])
def test_words_are_means_over_their_own_tokens_after_all_before(hf, tmp_path, kind):
    import torch

    torch.manual_seed(3)
    model = language_model(hf, kind).eval()
    model.save_pretrained(tmp_path / "m")
    spell = spelling(hf, tmp_path / "m")
    rows = [
        ("word", i, 0.5, "film", "", word, "") for i, word in enumerate((*WORDS, " "))
    ]
    table = write(tmp_path / "events.tsv", rows)
    asked = Asked("hf_text", model=str(tmp_path / "m"), layers=(0, 1), batch_size=3)
    prepare(table, tmp_path / "d", asked)
    dataset, found = held(tmp_path / "d")
    told = dataset.info.processing
    assert (told["modality"], told["layers"], told["width"]) == ("text", 1, 12)
    assert told["model"].startswith(f"{kind} sha256:")
    limit = 11 if kind == "bert" else 99
    for i, word in enumerate(WORDS):
        ids = spell(" ".join(WORDS[: i + 1]), add_special_tokens=False)["input_ids"]
        n = len(spell(word, add_special_tokens=False)["input_ids"])
        given = torch.tensor([ids[-limit:]])
        with torch.no_grad():
            states = model(input_ids=given, output_hidden_states=True).hidden_states
        wanted = torch.stack(states)[:, 0, -n:].mean((0, 1))  # all three, as one group
        steps = found["film@0.0"]
        np.testing.assert_allclose(steps[:, 2 * i], wanted, atol=1e-5)
        assert (steps[:, 2 * i + 1] == 0).all()
    assert "1 of 9 words have no text" in (tmp_path / "d/notes.tsv").read_text()


def sound_model(hf, kind, folder):
    if kind == "wav2vec2":
        rate = 100
        config = hf.Wav2Vec2Config(
            hidden_size=12,
            num_hidden_layers=2,
            num_attention_heads=2,
            intermediate_size=14,
            conv_dim=(6, 6),
            conv_kernel=(5, 3),
            conv_stride=(4, 2),
            num_conv_pos_embeddings=4,
            num_conv_pos_embedding_groups=2,
        )
        model = hf.Wav2Vec2Model(config)
        extractor = hf.Wav2Vec2FeatureExtractor(sampling_rate=rate)
    else:
        rate = 16_000
        config = hf.Wav2Vec2BertConfig(
            hidden_size=12,
            num_hidden_layers=2,
            num_attention_heads=2,
            intermediate_size=14,
            feature_projection_input_dim=160,
        )
        model = hf.Wav2Vec2BertModel(config)
        extractor = hf.SeamlessM4TFeatureExtractor()
    model.save_pretrained(folder)
    extractor.save_pretrained(folder)
    return model.eval(), extractor, rate


@pytest.mark.parametrize(
    ("kind", "edges"), [("wav2vec2", (0, 60, 97)), ("wav2vec2-bert", (0, 3))]
)
def test_tokens_of_each_piece_of_sound_are_taken_at_the_steps(
    hf, tmp_path, kind, edges
):
    import torch

    torch.manual_seed(4)
    model, extractor, rate = sound_model(hf, kind, tmp_path / "m")
    rng = np.random.default_rng(0)
    wave = rng.normal(0.02, 0.1, (edges[-1] * rate, 2)).astype(np.float32)
    soundfile.write(tmp_path / "film.wav", wave, rate, subtype="FLOAT")
    rows = [("sound", 2, "n/a", "film", "", "", "film.wav")]
    table = write(tmp_path / "events.tsv", rows)
    asked = Asked("hf_audio", model=str(tmp_path / "m"), layers=(0.5,))
    prepare(table, tmp_path / "d", asked)
    _, found = held(tmp_path / "d")
    wanted = []
    for start, stop in itertools.pairwise(edges):
        piece = wave[start * rate : stop * rate].mean(1)
        z = (piece - piece.mean()) / piece.std()
        given = extractor(z, sampling_rate=rate, return_tensors="pt")
        with torch.no_grad():
            state = model(**given, output_hidden_states=True).hidden_states[1][0]
        n = 2 * (stop - start)
        wanted += [state[i * len(state) // n].numpy() for i in range(n)]
    np.testing.assert_allclose(found["film@2.0"], np.array(wanted).T, atol=2e-5)


def picture_model(hf, kind, folder):
    """A model, and what makes its input of frames."""
    import json

    sizes = {"hidden_size": 12, "num_hidden_layers": 2, "num_attention_heads": 2}
    if kind == "vjepa2":
        config = hf.VJEPA2Config(
            **sizes,
            crop_size=72,
            patch_size=24,
            frames_per_clip=4,
            pred_hidden_size=12,
            pred_num_attention_heads=2,
            pred_num_hidden_layers=1,
        )
        model = hf.VJEPA2Model(config)
        model.save_pretrained(folder)
        settings = {"do_resize": False, "crop_size": 72}
        settings |= {"image_mean": [0.5] * 3, "image_std": [0.2] * 3}
        (folder / "video_preprocessor_config.json").write_text(json.dumps(settings))

        def given(frames):
            x = (np.array(frames) / 255 - 0.5) / 0.2
            return {"pixel_values_videos": x.transpose(0, 3, 1, 2)[None]}

        return model, 4, given
    sizes |= {"intermediate_size": 14, "image_size": 32, "patch_size": 8}
    if kind == "vit":
        model = hf.ViTModel(hf.ViTConfig(**sizes))
        processor = hf.ViTImageProcessor(size={"height": 32, "width": 32})
    else:
        model = hf.VideoMAEModel(hf.VideoMAEConfig(**sizes, num_frames=4))
        crop = {"height": 32, "width": 32}
        processor = hf.VideoMAEImageProcessor(
            size={"shortest_edge": 35}, crop_size=crop
        )
    model.save_pretrained(folder)
    processor.save_pretrained(folder)
    n = 1 if kind == "vit" else 4

    def made(frames):
        frames = list(frames)
        x = processor(frames[0] if n == 1 else [frames], return_tensors="np")
        return dict(x)

    return model, n, made


@pytest.mark.parametrize("kind", ["vit", "videomae", "vjepa2"])
def test_hidden_states_of_the_clip_before_each_step_are_averaged(hf, tmp_path, kind):
    import torch

    torch.manual_seed(5)
    model, n, given = picture_model(hf, kind, tmp_path / "m")
    size = (72, 72) if kind == "vjepa2" else (40, 57)
    film = np.random.default_rng(4).integers(0, 255, (45, *size, 3), np.uint8)
    np.savez(tmp_path / "film.npz", frames=film, fps=10.0)
    table = write(tmp_path / "t.tsv", [("video", 1, "", "film", "", "", "film.npz")])
    asked = Asked("hf_video", model=str(tmp_path / "m"), layers=(0, 0.5, 1))
    prepare(table, tmp_path / "d", asked)
    dataset, found = held(tmp_path / "d")
    assert dataset.info.processing["layers"] == 2
    assert found["film@1.0"].shape == (24, 9)
    for step in (0, 4, 8):
        ends = (step + 1) / 2
        times = [max(0.0, ends - 4 * k / n) for k in reversed(range(n))]
        frames = film[[min(int(t * 10 + 1e-6), 44) for t in times]]
        x = {k: torch.tensor(v, dtype=torch.float32) for k, v in given(frames).items()}
        with torch.no_grad():
            states = model.eval()(**x, output_hidden_states=True).hidden_states
        states = torch.stack(states)[:, 0].mean(1)
        wanted = torch.cat([states[0], states[1:].mean(0)])
        np.testing.assert_allclose(found["film@1.0"][:, step], wanted, atol=3e-5)


def test_a_tokenizer_of_another_model_is_told(hf, tmp_path):
    config = hf.GPT2Config(vocab_size=2, n_embd=4, n_layer=1, n_head=1, n_positions=9)
    hf.GPT2Model(config).save_pretrained(tmp_path / "m")
    spelling(hf, tmp_path / "m")
    table = write(tmp_path / "t.tsv", [("word", 0, 1, "a", "", "whale", "")])
    with pytest.raises(NeuroFMError, match=r"cannot read input_ids \[1, 1\]"):
        prepare(table, tmp_path / "d", Asked("hf_text", model=str(tmp_path / "m")))


def test_a_length_of_minus_one_is_no_limit(hf, tmp_path):
    sizes = {"vocab_size": 30, "d_model": 8, "n_layer": 1, "n_head": 2, "d_inner": 8}
    model = hf.XLNetModel(hf.XLNetConfig(**sizes))
    assert model.config.max_position_embeddings == -1
    model.save_pretrained(tmp_path / "m")
    spelling(hf, tmp_path / "m")
    rows = [("word", i, 1, "a", "", word, "") for i, word in enumerate(("a", "whale"))]
    table = write(tmp_path / "t.tsv", rows)
    prepare(table, tmp_path / "d", Asked("hf_text", model=str(tmp_path / "m")))
    _, found = held(tmp_path / "d")
    assert np.isfinite(found["a@0.0"]).all()
    assert np.abs(found["a@0.0"]).min(axis=0).max() > 0


def test_a_folder_that_is_no_such_model_is_told(hf, tmp_path):
    def refused(match, name="hf_text", folder="m"):
        opened._load.cache_clear()
        table = write(tmp_path / "t.tsv", [("word", 0, 1, "a", "", "x", "")])
        asked = Asked(name, model=str(tmp_path / folder))
        with pytest.raises(NeuroFMError, match=match):
            prepare(table, tmp_path / "d", asked)

    refused("no folder of a Hugging Face model", folder="nowhere")
    language_model(hf, "bert").save_pretrained(tmp_path / "m")
    refused("holds no tokenizer .* copy the whole folder")
    with pytest.raises(NeuroFMError, match=r"a bert, which takes input_ids; .* pixels"):
        opened.opened(str(tmp_path / "m"), ("pixels",))
    weights = tmp_path / "m" / "model.safetensors"
    whole = weights.read_bytes()
    weights.rename(tmp_path / "m" / "pytorch_model.bin")
    refused("pickled ones are not read")
    weights.write_bytes(whole[: len(whole) // 2])
    refused("cannot load")
    from safetensors.numpy import load, save_file

    held = {k: v for k, v in load(whole).items() if "layer.1.attention" not in k}
    save_file(held, weights, {"format": "pt"})
    refused("lacks 10 weights of its model .encoder.layer.1.attention")
    config = tmp_path / "m" / "config.json"
    config.write_text('{"model_type": "own", "auto_map": {"AutoModel": "own.Own"}}')
    (tmp_path / "m" / "own.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w')\n")
    refused("cannot load")
    assert not (tmp_path / "ran").exists()
