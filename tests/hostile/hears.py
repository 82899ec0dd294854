"""Says `ready`, listens on eth0 for so many seconds, and prints the UDP ports and ICMPv6 types it heard.

Usage: hears.py SECONDS
"""
import socket
import sys
import time

wire = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(3))
wire.bind(("eth0", 0))
print("ready", flush=True)
until = time.monotonic() + float(sys.argv[1])
heard = set()
while time.monotonic() < until:
    wire.settimeout(max(0.01, until - time.monotonic()))
    try:
        frame, (_, _, kind, _, _) = wire.recvfrom(2000)
    except socket.timeout:
        break
    if kind == socket.PACKET_OUTGOING:
        continue
    if frame[12:14] == b"\x08\x00" and frame[23] == 17:
        heard.add("udp %d" % int.from_bytes(frame[36:38], "big"))
    if frame[12:14] == b"\x86\xdd" and frame[20] == 17:
        heard.add("udp %d" % int.from_bytes(frame[56:58], "big"))
    if frame[12:14] == b"\x86\xdd" and frame[20] == 58:
        heard.add("icmpv6 %d" % frame[54])
print("\n".join(sorted(heard)))
