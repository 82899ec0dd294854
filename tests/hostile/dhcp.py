"""A guest's root asks by DHCP, in a frame that it makes itself, as whoever the words say.

Usage: dhcp.py OWN-MAC CLIENT-MAC RELAY SOURCE TARGET; prints the address that it is offered, or nothing.
"""
import socket
import struct
import sys
import time

own, client, relay, source, target = sys.argv[1:6]


def mac(text):
    return bytes(int(part, 16) for part in text.split(":"))


def total(data):
    words = struct.unpack("!%dH" % (len(data) // 2), data)
    number = sum(words)
    while number >> 16:
        number = (number & 0xFFFF) + (number >> 16)
    return ~number & 0xFFFF


flags = 0x8000  # an answer to all, so that it can be heard whoever it is for
bootp = struct.pack("!BBBBIHH4s4s4s4s", 1, 1, 6, 0, 0x62626262, 0, flags, b"\0" * 4, b"\0" * 4,
                    b"\0" * 4, socket.inet_aton(relay))
bootp += mac(client) + b"\0" * 10 + b"\0" * 192 + bytes([99, 130, 83, 99, 53, 1, 1, 255])
udp = struct.pack("!HHHH", 68, 67, 8 + len(bootp), 0) + bootp
ip = struct.pack("!BBHHHBBH4s4s", 0x45, 0, 20 + len(udp), 1, 0, 64, 17, 0,
                 socket.inet_aton(source), socket.inet_aton(target))
ip = ip[:10] + struct.pack("!H", total(ip)) + ip[12:]
frame = b"\xff" * 6 + mac(own) + b"\x08\x00" + ip + udp

wire = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(0x0800))
wire.bind(("eth0", 0))
wire.send(frame)
until = time.monotonic() + 0.4
while time.monotonic() < until:
    wire.settimeout(max(0.01, until - time.monotonic()))
    try:
        heard = wire.recv(2000)
    except socket.timeout:
        break
    if heard[23] == 17 and heard[34:36] == b"\x00\x43" and heard[42:43] == b"\x02":
        print(socket.inet_ntoa(heard[58:62]))
        break
