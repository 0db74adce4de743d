"""Python programs of the kinds that pyperformance has, written anew: loops.py NAME COUNT prints one line that depends on all of it."""

import json
import re
import sys


def floats(count):
    """Planets round a star: attributes, lists and float arithmetic."""
    bodies = [[float(i * 4), i * 0.7, -i * 0.2, 0.0, (39.0 / (i * 4.0)) ** 0.5 if i else 0.0, 0.0, 0.01 * i if i else 39.0]
              for i in range(5)]
    pairs = [(a, b) for i, a in enumerate(bodies) for b in bodies[i + 1:]]
    for _ in range(count):
        for a, b in pairs:
            dx, dy, dz = a[0] - b[0], a[1] - b[1], a[2] - b[2]
            square = dx * dx + dy * dy + dz * dz
            pull = 0.001 / (square * square ** 0.5)
            left, right = b[6] * pull, a[6] * pull
            a[3] -= dx * left
            a[4] -= dy * left
            a[5] -= dz * left
            b[3] += dx * right
            b[4] += dy * right
            b[5] += dz * right
        for body in bodies:
            body[0] += 0.001 * body[3]
            body[1] += 0.001 * body[4]
            body[2] += 0.001 * body[5]
    return " ".join(f"{value:.12e}" for body in bodies for value in body[:3])


def words(count):
    """A text's words counted, sorted and joined: dictionaries and strings."""
    state, text = 1, []
    for _ in range(2000):
        state = state * 1103515245 + 12345 & 0x7FFFFFFF
        text.append("w" + "aeiou"[state >> 8 & 3] * (state >> 12 & 3) + str(state >> 16 & 255))
    line = " ".join(text)
    result = ""
    for number in range(count):
        seen = {}
        for word in line.split():
            key = word.upper() if len(word) & 1 else word[::-1]
            seen[key] = seen.get(key, 0) + 1
        order = sorted(seen.items(), key=lambda item: (-item[1], item[0]))
        result = ",".join(f"{key}={value}" for key, value in order[number % 7:number % 7 + 40])
        line = line.replace("w" + str(number % 10), "v", 5)
    return result


LOG = re.compile(r"(?P<host>\d+\.\d+\.\d+\.\d+) - (?P<user>\w+) \[(?P<when>[^]]+)\] \"(?P<method>GET|POST) (?P<path>/\S*)\" (\d{3}) (\d+)")


def regex(count):
    """Lines of a web server's log taken apart, and words replaced in them."""
    lines = [f"10.{i % 7}.{i % 11}.{i} - user{i % 5} [22/Nov/2026:1{i % 10}:00:00] \"{'GET' if i % 3 else 'POST'} "
             f"/page/{i}/view?id={i * 37}\" {200 + i % 5} {i * 123}" for i in range(200)]
    total, paths = 0, ""
    for _ in range(count):
        for line in lines:
            found = LOG.match(line)
            total += int(found.group(7)) + len(found.group("path"))
        paths = re.sub(r"(\d+)/view\?id=(\d+)", lambda m: m.group(2) + "-" + m.group(1), "\n".join(lines))
        total += len(re.findall(r"\b[a-z]+\d\b", paths))
    return f"{total} {len(paths)} {paths[-60:]}"


def documents(count):
    """JSON written and read again."""
    document = {"items": [{"id": i, "name": f"item {i}", "price": i * 1.25, "tags": ["a", "b\u00e9", str(i)],
                           "nested": {"ok": i % 2 == 0, "none": None}} for i in range(150)]}
    size = 0
    for number in range(count):
        text = json.dumps(document, sort_keys=True)
        document = json.loads(text)
        document["items"][number % 150]["id"] += 1
        size += len(text)
    return f"{size} {sum(item['id'] for item in document['items'])}"


class Task:
    """One of several that pass packets to each other, as an operating system's would."""

    def __init__(self, number, scheduler):
        self.number, self.scheduler, self.queue, self.handled = number, scheduler, [], 0

    def receive(self, packet):
        self.queue.append(packet)

    def run(self):
        if not self.queue:
            return False
        packet = self.queue.pop(0)
        self.handled += 1
        self.work(packet)
        return True

    def work(self, packet):
        raise NotImplementedError


class Worker(Task):
    def work(self, packet):
        packet.data = [(value * 7 + self.number) % 26 for value in packet.data]
        self.scheduler.send(packet, (self.number + 1) % len(self.scheduler.tasks))


class Device(Task):
    def work(self, packet):
        packet.hops += 1
        self.scheduler.send(packet, (self.number + packet.data[packet.hops % 4]) % len(self.scheduler.tasks))


class Packet:
    def __init__(self, data):
        self.data, self.hops = data, 0


class Scheduler:
    def __init__(self):
        self.tasks = [(Worker if i % 2 else Device)(i, self) for i in range(6)]

    def send(self, packet, number):
        self.tasks[number].receive(packet)

    def step(self):
        return sum(task.run() for task in self.tasks)


def objects(count):
    """Methods, attributes and small lists, after the fashion of the Richards benchmark."""
    scheduler = Scheduler()
    for i in range(8):
        scheduler.send(Packet([i, i + 1, i + 2, i + 3]), i % 6)
    runs = sum(scheduler.step() for _ in range(count))
    return f"{runs} " + " ".join(str(task.handled) for task in scheduler.tasks)


PROGRAMS = {"floats": floats, "words": words, "regex": regex, "json": documents, "objects": objects}

if __name__ == "__main__":
    print(PROGRAMS[sys.argv[1]](int(sys.argv[2])))
