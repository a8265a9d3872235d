"""A server that speaks the protocol of the Hugging Face Hub, as far as we use it."""

import base64
import hashlib
import http.server
import json
import re


class Hub(http.server.ThreadingHTTPServer):
    """Repositories by name, each a list of commits, each a dict of files by path."""

    daemon_threads = True

    def __init__(self):
        super().__init__(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server_port}"
        self.repositories, self.objects, self.requests = {}, {}, []
        self.headers = []

    def commit(self, name, files):
        """Adds a commit and returns its name."""
        self.repositories.setdefault(name, []).append(files)
        return self.name_of(name, len(self.repositories[name]) - 1)

    def name_of(self, name, number):
        return hashlib.sha1(f"{name} {number}".encode()).hexdigest()

    def find(self, name, revision):
        """Name and files of the commit that a revision stands for."""
        commits = self.repositories.get(name, [])
        names = [self.name_of(name, i) for i in range(len(commits))]
        by_revision = dict(zip(names, commits, strict=True))
        if commits:
            by_revision["main"] = commits[-1]
        if revision not in by_revision:
            return None, None
        commit = names[-1] if revision == "main" else revision
        return commit, by_revision[revision]


class Handler(http.server.BaseHTTPRequestHandler):
    def log_message(self, *arguments):
        pass

    def answer(self, body=b"", status=200, **headers):
        body = body if isinstance(body, bytes) else json.dumps(body).encode()
        self.send_response(status)
        for key, value in headers.items():
            self.send_header(key.replace("_", "-"), value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def respond(self):
        length = int(self.headers.get("Content-Length") or 0)
        self.body = self.rfile.read(length)
        self.path = self.path.split("?")[0]
        self.server.requests.append((self.command, self.path))
        for pattern, method in ROUTES.items():
            if match := re.fullmatch(pattern, self.path):
                return getattr(self, method)(**match.groupdict())
        self.answer(status=404)

    do_GET = do_HEAD = do_POST = do_PUT = respond

    def resolve(self, name, revision, file):
        commit, files = self.server.find(name, revision)
        if files is None or file not in files:
            missing = "RepoNotFound" if files is None else "EntryNotFound"
            return self.answer(status=404, X_Error_Code=missing)
        digest = hashlib.sha256(files[file]).hexdigest()
        self.answer(files[file], ETag=f'"{digest}"', X_Repo_Commit=commit)

    def create(self):
        wanted = json.loads(self.body)
        name = "/".join(filter(None, (wanted.get("organization"), wanted["name"])))
        self.server.repositories.setdefault(name, [{}])
        self.answer({"url": f"{self.server.url}/{name}", "name": name, "id": name})

    def info(self, name, revision="main"):
        commit, files = self.server.find(name, revision)
        siblings = [{"rfilename": path} for path in files]
        self.answer({"id": name, "modelId": name, "sha": commit, "siblings": siblings})

    def tree(self, name, revision):
        _, files = self.server.find(name, revision)
        self.answer(
            [
                {"type": "file", "path": path, "size": len(data), "oid": "0" * 40}
                for path, data in files.items()
            ]
        )

    def validate(self):
        _, yaml, _ = json.loads(self.body)["content"].split("---\n", 2)
        self.server.headers.append(yaml)
        self.answer({"errors": [], "warnings": []})

    def preupload(self, name, revision):
        files = [
            {
                "path": file["path"],
                "uploadMode": "lfs" if file["path"].endswith(".h5") else "regular",
                "shouldIgnore": False,
            }
            for file in json.loads(self.body)["files"]
        ]
        self.answer({"files": files})

    def batch(self, name):
        objects = [
            thing
            | {"actions": {"upload": {"href": f"{self.server.url}/lfs/{thing['oid']}"}}}
            for thing in json.loads(self.body)["objects"]
        ]
        self.answer({"transfer": "basic", "objects": objects})

    def store(self, oid):
        assert hashlib.sha256(self.body).hexdigest() == oid
        self.server.objects[oid] = self.body
        self.answer()

    def commit(self, name, revision):
        _, files = self.server.find(name, revision)
        files = dict(files)
        for line in map(json.loads, self.body.splitlines()):
            value = line["value"]
            match line["key"]:
                case "file":
                    files[value["path"]] = base64.b64decode(value["content"])
                case "lfsFile":
                    files[value["path"]] = self.server.objects[value["oid"]]
                case "deletedFile":
                    del files[value["path"]]
        oid = self.server.commit(name, files)
        url = f"{self.server.url}/{name}/commit/{oid}"
        self.answer({"commitUrl": url, "commitOid": oid})


_NAME = r"(?P<name>[\w.-]+/[\w.-]+)"
_REVISION = r"(?P<revision>[^/]+)"
ROUTES = {
    f"/{_NAME}/resolve/{_REVISION}/(?P<file>.+)": "resolve",
    "/api/repos/create": "create",
    "/api/validate-yaml": "validate",
    f"/api/models/{_NAME}": "info",
    f"/api/models/{_NAME}/revision/{_REVISION}": "info",
    f"/api/models/{_NAME}/tree/{_REVISION}": "tree",
    f"/api/models/{_NAME}/preupload/{_REVISION}": "preupload",
    f"/api/models/{_NAME}/commit/{_REVISION}": "commit",
    rf"/{_NAME}\.git/info/lfs/objects/batch": "batch",
    "/lfs/(?P<oid>.+)": "store",
}
