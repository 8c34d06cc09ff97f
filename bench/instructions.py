"""Reads a callgrind profile and prints the instructions of each hot path for each time that it was walked.

The format: https://valgrind.org/docs/manual/cl-format.html. Only calls are read: `cfn=` names who is called (its name once,
then its number alone), `calls=` says how often, and the last number of the line after it is what these calls cost in all.
"""

import re
import sys

# What is counted, and the function that does it.
PATHS = {
    "decode a packet": r"Packet>?::decode_with$",
    "encode an event, for all its receivers": r"EventArgs>?::event_frames$",
    "queue a broadcast for 200 members": r"Fanout>?::advance$|Shard>?::fan_out$",
    "flush a connection": r"Connection>?::flush$",
    "handle an event: frame, packet, handler, replies": r"websocket::handle_frames$",
}

names, calls, costs = {}, {}, {}
callee, is_cost_of_call = None, False
with open(sys.argv[1], encoding="utf-8") as profile:
    for line in profile:
        if is_cost_of_call:
            costs[callee] = costs.get(callee, 0) + int(line.split()[-1])
            is_cost_of_call = False
        elif named := re.match(r"(c?fn)=(\(\d+\))(?: (.*))?", line):
            kind, number, name = named.groups()
            if name:
                names[number] = re.sub(r"'\d+$", "", name)
            if kind == "cfn":
                callee = names[number]
        elif counted := re.match(r"calls=(\d+)", line):
            calls[callee] = calls.get(callee, 0) + int(counted[1])
            is_cost_of_call = True

print(f"{'':50} {'instructions':>12} {'times':>8}")
for title, pattern in PATHS.items():
    found = [name for name in calls if re.search(pattern, name)]
    times, cost = sum(calls[name] for name in found), sum(costs[name] for name in found)
    print(f"{title:50} {cost / times:12.0f} {times:8}" if times else f"{title:50} {'inlined':>12}")
