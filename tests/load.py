"""Serves a model under load and checks every answer.

    python tests/load.py [--server kserve] [--seconds 3600] [--log FILE]

Starts a server as docs/serving.md does and sends it, from 16 clients on this machine,
batches of 1 to 64 images of many formats, sizes and orientations, among them some that
are no images, malformed requests, and requests whose sender hangs up. Halfway a new
version of the model appears; at the end comes SIGTERM, with requests in flight.

Every image must get the answer that it gets alone, in whatever batch; every malformed
request a status from 400 to 499 and one line; every request in flight its answer.
"""

import argparse
import collections
import contextlib
import http.client
import io
import json
import pathlib
import platform
import random
import signal
import struct
import sys
import tempfile
import threading
import time
import urllib.parse

import numpy as np
import psutil
import servers
from PIL import Image

BATCHES = [1, 1, 1, 1, 2, 4, 8, 16, 32, 64]
TOLERANCE = 1e-4
IN_FLIGHT = 0.2
"""Seconds before SIGTERM by which a request was sent that must be answered."""


def images():
    """Encoded images and junk by name."""
    random_state = np.random.default_rng(0)
    items = {}
    for i, size in enumerate([(32, 32), (48, 64), (300, 200), (1200, 900)]):
        blocks = random_state.integers(0, 256, (5, 4, 3), "uint8")
        image = Image.fromarray(blocks).resize(size, Image.Resampling.BICUBIC)
        for kind in ("JPEG", "PNG", "GIF", "BMP", "WEBP"):
            items[f"{kind} {i}"] = encode(image, kind)
        items[f"gray {i}"] = encode(image.convert("L"), "PNG")
        items[f"alpha {i}"] = encode(image.convert("RGBA"), "PNG")
        deep = np.asarray(image.convert("L")).astype("uint16") * 257
        items[f"16 bit {i}"] = encode(Image.fromarray(deep), "PNG")
        for orientation in range(1, 9):
            exif = Image.Exif()
            exif[0x0112] = orientation
            items[f"orientation {orientation}, {i}"] = encode(image, "JPEG", exif=exif)
    png, jpeg = items["PNG 1"], items["JPEG 1"]
    return items | {
        "nothing": b"",
        "text": b"no image",
        "half a JPEG": jpeg[: len(jpeg) // 2],
        "half a PNG": png[: len(png) // 2],
        "a huge claim": png[:16] + struct.pack(">II", 2**31 - 1, 2**31 - 1) + png[24:],
    }


def encode(image, kind, **options):
    stream = io.BytesIO()
    image.save(stream, kind, **options)
    return stream.getvalue()


def alone(version, items):
    """What a version of the model answers to each image by itself.

    Returns:
        A dict of `(class names, probabilities, valid)`. Images with two classes whose
        probabilities differ by little are left out.
    """
    import tensorflow as tf

    serve = tf.saved_model.load(str(version)).signatures["serve_bytes"]
    answers = {}
    for name, data in items.items():
        answer = serve(image_bytes=tf.constant([data]))
        valid = bool(answer["valid"].numpy()[0])
        scores = answer["probabilities"].numpy()[0]
        if not valid or np.diff(-scores).min() > 4 * TOLERANCE:
            names = [text.decode() for text in answer["classes"].numpy()[0]]
            answers[name] = names, scores, valid
    return answers


class Client(threading.Thread):
    """Sends requests until the server is gone, and keeps count."""

    def __init__(self, server, url, items, answers, stop, seed):
        super().__init__(daemon=True)
        self.protocol, self.url = servers.PROTOCOLS[server], urllib.parse.urlparse(url)
        self.items, self.answers, self.stop = items, answers, stop
        self.random = random.Random(seed)
        self.latencies = collections.defaultdict(list)
        self.versions, self.wrong = set(), []
        self.images = self.refused = self.lost = self.answered_late = 0

    def run(self):
        malformed = list(self.protocol.malformed().items())
        while not self.stop.gone:
            draw = self.random.random()
            if draw < 0.1:
                self.send_malformed(*self.random.choice(malformed))
            elif draw < 0.12:
                self.hang_up()
            else:
                self.send_images()

    def send_images(self):
        count = self.random.choice(BATCHES)
        names = self.random.choices(list(self.answers), k=count)
        request = self.protocol.request([self.items[name] for name in names])
        begin = time.monotonic()
        status, answer = self.exchange(json.dumps(request).encode())
        if status is None:
            return
        self.latencies[count].append(time.monotonic() - begin)
        self.images += count
        if status != 200:
            self.wrong.append(f"{status} for {names}: {answer[:200]}")
            return
        rows = self.protocol.rows(json.loads(answer))
        for name, row in zip(names, rows, strict=True):
            self.compare(name, row)

    def compare(self, name, row):
        names, scores, valid = self.answers[name]
        classes = [text.removeprefix("new ") for text in row["classes"]]
        if valid:
            self.versions.add("2" if row["classes"][0].startswith("new ") else "1")
        if (classes, row["valid"]) != (names, valid) or (
            np.abs(np.subtract(row["probabilities"], scores)).max() > TOLERANCE
        ):
            self.wrong.append(f"{name}: {row}, alone {names, scores, valid}")

    def send_malformed(self, name, request):
        body = request if isinstance(request, bytes) else json.dumps(request).encode()
        status, answer = self.exchange(body)
        if status is None:
            return
        self.refused += 1
        if not 400 <= status < 500 or b"\n" in answer.strip() or len(answer) > 500:
            self.wrong.append(f"{name}: {status} {answer[:200]}")

    def hang_up(self):
        with contextlib.suppress(OSError), contextlib.closing(self.connect()) as wire:
            wire.putrequest("POST", self.url.path + self.protocol.path)
            wire.putheader("Content-Length", "100000")
            wire.endheaders(b'{"in')

    def exchange(self, body):
        """Status and answer; None if there is no server any more."""
        sent = None
        try:
            with contextlib.closing(self.connect()) as wire:
                headers = {"Content-Type": "application/json"}
                wire.request("POST", self.url.path + self.protocol.path, body, headers)
                sent = time.monotonic()
                answer = wire.getresponse()
                content = answer.read()
        except (OSError, http.client.HTTPException) as error:
            self.note_loss(sent, error)
            return None, None
        self.answered_late += self.stop.in_flight(sent)
        return answer.status, content

    def note_loss(self, sent, error):
        if self.stop.time is None:
            self.wrong.append(f"no answer: {error!r}")
        elif self.stop.in_flight(sent):
            self.lost += 1

    def connect(self):
        return http.client.HTTPConnection(self.url.hostname, self.url.port, timeout=120)


class Stop:
    """When the server was told to end, and whether it has."""

    time, gone = None, False

    def in_flight(self, sent):
        """Whether a request was on its way when the server was told to end."""
        return None not in (sent, self.time) and (
            sent < self.time - IN_FLIGHT and time.monotonic() > self.time
        )


def watch(process, seconds, halfway, switched):
    """Samples the server's memory every second; calls `halfway` once, in a thread.

    Args:
        process: The server.
        seconds: How long, at least: until `switched()` besides, for 2 minutes more.
        halfway: Makes a new version.
        switched: Whether an answer of the new version has come.

    Returns:
        Arrays of seconds and of MiB.
    """
    samples, begin = [], time.monotonic()
    server = psutil.Process(process.pid)
    thread = threading.Thread(target=halfway)
    while (now := time.monotonic() - begin) < seconds + 120 and process.poll() is None:
        if now > seconds and switched():
            break
        samples.append((now, server.memory_info().rss / 2**20))
        if now > seconds / 2 and thread.ident is None:
            thread.start()
        time.sleep(1)
    thread.join()
    return np.array(samples).T


def put_under_load(process, url, server, version, make_version, *, seconds, clients):
    """Sends a running server what the docstring of this file says, and SIGTERM.

    Args:
        process: The server.
        url: Of its model.
        server: A name in `servers.PROTOCOLS`.
        version: Path of the version that it serves.
        make_version: Writes another version, whose class names begin with "new ".
        seconds: How long.
        clients: How many.

    Returns:
        The report, a dict.
    """
    items, stop = images(), Stop()
    answers = alone(version, items)
    clients = [
        Client(server, url, items, answers, stop, seed) for seed in range(clients)
    ]
    for client in clients:
        client.start()
    begin = time.monotonic()
    times, memory = watch(
        process, seconds, make_version, lambda: any("2" in c.versions for c in clients)
    )
    speed = sum(client.images for client in clients) / (time.monotonic() - begin)
    stop.time = time.monotonic()
    process.send_signal(signal.SIGTERM)
    code = process.wait(120)
    stop.gone = True
    for client in clients:
        client.join(120)
    return report(clients, times, memory, speed, code) | {
        "distinct_images": len(answers),
        "images_no_model_takes": sum(not valid for *_, valid in answers.values()),
    }


def report(clients, seconds, memory, speed, code):
    wrong = [text for client in clients for text in client.wrong]
    return {
        "answered": sum(len(v) for c in clients for v in c.latencies.values()),
        "images": sum(client.images for client in clients),
        "refused": sum(client.refused for client in clients),
        "wrong": wrong[:10],
        "versions": sorted(set.union(*(client.versions for client in clients))),
        "answered_after_sigterm": sum(client.answered_late for client in clients),
        "lost_at_sigterm": sum(client.lost for client in clients),
        "exit_status": code,
        "images_per_second": round(speed, 1),
        "latency_ms": latencies(clients),
        "memory_mib": [round(memory[0]), round(memory.max()), round(memory[-1])],
        "memory_slope_mib_per_minute": {
            "second quarter": slope(seconds, memory, 0.25),
            "last quarter": slope(seconds, memory, 0.75),
        },
    }


def slope(seconds, memory, begin):
    """MiB per minute in a quarter of the time: a new version makes a step at half."""
    share = seconds / seconds[-1]
    chosen = (share >= begin) & (share < begin + 0.25)
    return round(float(np.polyfit(seconds[chosen], memory[chosen], 1)[0] * 60), 2)


def latencies(clients):
    """Percentiles by batch size, and of all."""
    by_size = collections.defaultdict(list)
    for client in clients:
        for size, values in client.latencies.items():
            by_size[size] += values
            by_size["all"] += values
    return {
        str(size): {
            f"p{q}": round(1000 * float(np.percentile(by_size[size], q)), 1)
            for q in (50, 95, 99)
        }
        for size in (1, 8, 64, "all")
        if by_size[size]
    }


def serve_and_load(arguments, folder):
    """Exports a model into a folder, starts the server there and loads it."""
    import keras

    import elu_zoo

    keras.utils.set_random_seed(0)
    if arguments.weights:
        model = elu_zoo.ELUNet11(weights=arguments.weights)
    else:
        model = elu_zoo.ELUNet11(width=0.05, classes=7)

    def export(prefix):
        names = [f"{prefix}{i}" for i in range(model.output_shape[-1])]
        return elu_zoo.export_saved_model(model, folder / "served", class_names=names)

    version, python = export(""), servers.python_with(arguments.server)
    with getattr(servers, arguments.server)(folder, python) as (process, url):
        result = put_under_load(
            process,
            url,
            arguments.server,
            version,
            lambda: export("new "),
            seconds=arguments.seconds,
            clients=arguments.clients,
        )
    if result["exit_status"] not in (0, -signal.SIGTERM):
        print((folder / "log.txt").read_text()[-3000:], file=sys.stderr)
    return result


def main(argv=None):
    """Runs the command; returns the report."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--server", default="mlserver", choices=servers.PROTOCOLS)
    parser.add_argument("--seconds", type=float, default=600)
    parser.add_argument("--clients", type=int, default=16)
    parser.add_argument("--weights", help="such as cifar100; default a small network")
    parser.add_argument("--log", type=pathlib.Path, help="also write the report there")
    arguments = parser.parse_args(argv)
    facts = {
        "server": arguments.server,
        "weights": arguments.weights,
        "seconds": arguments.seconds,
        "clients": arguments.clients,
        "processor": platform.processor() or platform.machine(),
        "cores": psutil.cpu_count(),
    }
    with tempfile.TemporaryDirectory() as folder:
        facts |= serve_and_load(arguments, pathlib.Path(folder))
    text = json.dumps(facts, indent=1) + "\n"
    print(text, end="")
    if arguments.log:
        arguments.log.write_text(text)
    return facts


if __name__ == "__main__":
    sys.path.insert(0, str(servers.ROOT))
    sys.exit(bool(main()["wrong"]))
