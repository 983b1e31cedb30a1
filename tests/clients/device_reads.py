"""The kernel as a witness: GETs of records on disk against the read requests that the block device counts.

    device_reads.py [--records 50000] [--reads 20000] [--server PROGRAM]

Makes an ext4 of its own, on a zram device if there is one to be had and on a loop device otherwise, stores records, starts the
server anew so that nothing is in RAM, and asks. The device's reads, `disk_reads` and `get_extstore` have to grow by exactly the
number of GETs. Needs root; where that or a device is missing it says so and exits with 0.
"""

import argparse
import os
import subprocess
import sys
import time

import common

DISK_BYTES = 1 << 30


def arguments():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--server", default=common.DEFAULT_SERVER)
    parser.add_argument("--records", type=int, default=50000)
    parser.add_argument("--reads", type=int, default=20000)
    return parser.parse_args()


def skip(reason):
    print("skipped: " + reason)
    sys.exit(0)


def run(*line):
    return subprocess.run(line, check=True, stdin=subprocess.DEVNULL, capture_output=True, text=True).stdout.strip()


class Disk:
    """A mounted ext4 on a device that nobody else uses."""

    def __init__(self, scratch):
        self.directory = os.path.join(scratch, "mounted")
        self.device, self.kind = None, None
        os.mkdir(self.directory)
        try:
            self.take_zram()
        except (OSError, subprocess.CalledProcessError):
            self.take_loop(os.path.join(scratch, "image"))
        try:
            self.make_file_system()
        except (OSError, subprocess.CalledProcessError):
            self.give_back()
            raise

    def make_file_system(self):
        run("mkfs.ext4", "-q", "-F", "-m", "0", "-E", "lazy_itable_init=0,lazy_journal_init=0", self.device)
        run("mount", "-o", "noatime", self.device, self.directory)

    def take_zram(self):
        with open("/sys/class/zram-control/hot_add") as control:
            number = control.read().strip()
        self.device, self.kind = "/dev/zram" + number, "zram"
        with open("/sys/block/zram%s/disksize" % number, "w") as size:
            size.write(str(DISK_BYTES))

    def take_loop(self, image):
        self.give_back()
        with open(image, "wb") as file:
            file.truncate(DISK_BYTES)
        self.device, self.kind = run("losetup", "--find", "--show", "--direct-io=on", image), "loop"

    def reads(self):
        """Read requests that the device completed, merged ones added: what the file system sent down."""
        with open("/sys/block/%s/stat" % os.path.basename(self.device)) as stat:
            words = stat.read().split()
        return int(words[0]) + int(words[1])

    def give_back(self):
        # The kernel may hold the files of a process that has ended for a moment.
        for _ in range(50):
            if not os.path.ismount(self.directory) or subprocess.run(["umount", self.directory], check=False).returncode == 0:
                break
            time.sleep(0.1)
        if self.kind == "loop":
            subprocess.run(["losetup", "--detach", self.device], check=False)
        elif self.kind == "zram":
            with open("/sys/class/zram-control/hot_remove", "w") as control:
                control.write(self.device[len("/dev/zram") :])
        self.kind = None


def fill(server, count):
    client = common.Pipeline(server.port)
    for start in range(0, count, 200):
        numbers = range(start, min(start + 200, count))
        client.send([common.set_request(number) for number in numbers])
        for _ in numbers:
            if client.line() != b"STORED\r\n":
                sys.exit("a record was not stored")
    client.close()


def measure(server, disk, numbers):
    """The deltas of one read of `numbers`: device reads, disk_reads, get_extstore."""
    client = common.Pipeline(server.port)
    before, device_before = client.stats(), disk.reads()
    wrong, missing = common.verify(server.port, numbers)
    device_after, after = disk.reads(), client.stats()
    client.close()
    if wrong or missing:
        sys.exit("FAILED: %d wrong, %d missing" % (wrong, missing))
    names = ("disk_reads", "get_extstore")
    return (device_after - device_before, *(int(after[name]) - int(before[name]) for name in names))


def compare(options, disk):
    flags = ["-m", "64", "--capacity", "512m", "--table-size", "16m"]
    directory = os.path.join(disk.directory, "data")
    server = common.Server(options.server, directory, flags)
    fill(server, options.records)
    server.terminate()
    server = common.Server(options.server, directory, flags)
    # The first read of a file makes the file system read its map of blocks: that is the file system's, and done before we count.
    measure(server, disk, list(range(0, options.records, 37)))
    server.terminate()
    server = common.Server(options.server, directory, flags)
    numbers = [number * 7919 % options.records for number in range(min(options.reads, options.records))]
    device, disk_reads, from_disk = measure(server, disk, numbers)
    server.terminate()
    count = len(numbers)
    print("%s: %d GETs, %d device reads, disk_reads +%d, get_extstore +%d" % (disk.device, count, device, disk_reads, from_disk))
    print("device reads per GET answered from disk: %.4f" % (device / max(from_disk, 1)))
    return device == disk_reads == from_disk == count


def main():
    options = arguments()
    if options.records % 7919 == 0:
        sys.exit("the number of records must not be a multiple of 7919, which is the stride of the reads")
    if os.geteuid() != 0:
        skip("needs root to make a file system")
    with common.scratch_directory() as scratch:
        disk = None
        try:
            disk = Disk(scratch)
        except (OSError, subprocess.CalledProcessError) as error:
            skip("no device for a file system of its own: %s" % error)
        try:
            exact = compare(options, disk)
        finally:
            disk.give_back()
    print("ok" if exact else "FAILED: not one read per GET")
    sys.exit(0 if exact else 1)


if __name__ == "__main__":
    main()
