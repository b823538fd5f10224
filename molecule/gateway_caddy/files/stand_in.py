"""Stands in for vLLM: the routes that a gateway asks, a key that is read anew for each request, events with pauses. Tells what it got."""

import http.server
import json
import os
import socket
import threading
import time

KEY = "/root/key"
ILL = "/root/ill"  # while there is such a file, the server is not well
lock = threading.Lock()


class Server(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    running = 0

    def log_message(self, *words):
        pass

    def say(self, status, text):
        self.send_response(status)
        self.send_header("Content-Length", str(len(text)))
        self.end_headers()
        self.wfile.write(text.encode())

    def has_key(self):
        with open(KEY) as stream:
            return self.headers.get("Authorization") == "Bearer " + stream.read().strip()

    def do_GET(self):
        if self.path == "/health":
            self.say(503 if os.path.exists(ILL) else 200, "")
        elif self.path == "/metrics":
            self.say(200, f'vllm:num_requests_running{{engine="0"}} {Server.running}\n')
        else:
            self.say(200 if self.has_key() else 401, "{}")

    def body(self):
        if self.headers.get("Content-Length"):
            return self.rfile.read(int(self.headers["Content-Length"]))
        found = b""
        while size := int(self.rfile.readline(), 16):
            found += self.rfile.read(size)
            self.rfile.readline()
        return found

    def do_POST(self):
        body = self.body()
        if not self.has_key():
            return self.say(401, "{}")
        asked = json.loads(body)
        with lock:
            Server.running += 1
        try:
            if asked.get("events"):
                self.stream(asked["events"])
            else:
                said = {"path": self.path, "headers": dict(self.headers), "bytes": len(body), "server": socket.gethostname()}
                self.say(200, json.dumps(said))
        finally:
            with lock:
                Server.running -= 1

    def stream(self, events):
        self.send_response(200)
        self.send_header("Content-Type", "text/event-stream")
        self.send_header("Transfer-Encoding", "chunked")
        self.end_headers()
        for number in range(events):
            self.piece(f"data: {number}\n\n")
            time.sleep(0.05)
        self.piece("data: [DONE]\n\n")
        self.wfile.write(b"0\r\n\r\n")

    def piece(self, text):
        self.wfile.write(f"{len(text):x}\r\n{text}\r\n".encode())
        self.wfile.flush()


http.server.ThreadingHTTPServer(("0.0.0.0", 8001), Server).serve_forever()
