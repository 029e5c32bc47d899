"""Made-up HEAR tasks: folders with sound, and embeddings that need no model."""

import json

import numpy as np
import soundfile

RATE = 16000


def write(folder, answers, labels, *, kind, prediction, mode, scores, seconds=0.0):
    """Write a task folder; with seconds also sound, a tone a label."""
    folder.mkdir(parents=True)
    told = {
        "task_name": folder.name,
        "embedding_type": kind,
        "prediction_type": prediction,
        "split_mode": mode,
        "splits": list(answers),
        "sample_duration": seconds,
        "evaluation": scores,
    }
    (folder / "task_metadata.json").write_text(json.dumps(told))
    rows = [f"{i},{label}" for i, label in enumerate(labels)]
    (folder / "labelvocabulary.csv").write_text("\n".join(["idx,label", *rows]))
    rng = np.random.default_rng(0)
    for split, files in answers.items():
        (folder / f"{split}.json").write_text(json.dumps(files))
        for file, answer in files.items() if seconds else ():
            wave = 0.01 * rng.standard_normal(round(seconds * RATE))
            at = 1000 * np.arange(len(wave)) / RATE
            for one in answer:
                event = one if isinstance(one, dict) else {"label": one}
                on = (at >= event.get("start", 0)) & (at < event.get("end", np.inf))
                hz = 300 * 2 ** labels.index(event["label"])
                wave += 0.2 * on * np.sin(2 * np.pi * hz * at / 1000)
            path = folder / str(RATE) / split / file
            path.parent.mkdir(parents=True, exist_ok=True)
            soundfile.write(path, wave.astype(np.float32), RATE)
    return folder


def scenes(folder, n=12, labels=("a", "b", "c"), **more):
    """One label each, in train, valid and test."""
    answers = {
        split: {f"{split}{i}.wav": [labels[i % len(labels)]] for i in range(n)}
        for split in ("train", "valid", "test")
    }
    told = {"kind": "scene", "prediction": "multiclass", "mode": "trainvaltest"}
    told["scores"] = ["top1_acc", "mAP", "d_prime", "aucroc"]
    return write(folder, answers, list(labels), **{**told, **more})


def tags(folder, n=9, n_folds=4, **more):
    """Several labels each, in folds."""
    rng, labels = np.random.default_rng(1), ["x", "y", "z"]
    answers = {
        f"fold{f:02d}": {
            f"f{f}_{i}.wav": [label for label in labels if rng.random() < 0.5]
            for i in range(n)
        }
        for f in range(n_folds)
    }
    told = {"kind": "scene", "prediction": "multilabel", "mode": "new_split_kfold"}
    told["scores"] = ["mAP", "aucroc"]
    return write(folder, answers, labels, **{**told, **more})


def happenings(folder, n=3, seconds=4.0, sound=False, **more):
    """Events of two classes, one after the other and now and then at once."""
    rng, labels = np.random.default_rng(2), ["hit", "ring"]
    answers = {}
    for split in ("train", "valid", "test"):
        answers[split] = {}
        for i in range(n):
            starts = np.arange(0, 1000 * seconds - 900, 900) + rng.uniform(0, 200)
            answers[split][f"{split}{i}.wav"] = [
                {
                    "label": labels[int(rng.integers(2))],
                    "start": round(float(start), 1),
                    "end": round(float(start + rng.uniform(350, 800)), 1),
                }
                for start in starts
            ]
    told = {"kind": "event", "prediction": "multilabel", "mode": "trainvaltest"}
    told["scores"] = ["event_onset_200ms_fms", "segment_1s_er"]
    given = {"seconds": seconds} if sound else {}
    return write(folder, answers, labels, **{**told, **given, **more})
