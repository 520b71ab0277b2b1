// A scheduler made of the npm package mesos-framework, for the tests. It tells
// on stdout, one JSON object a line, what it hears and does.
//
//   node scheduler.js PORT NAME IMAGE DIRECTORY
//
// USR2 has it tear the framework down. Everything but the telling is the
// package's own.
"use strict";
const { Scheduler, Mesos } = require("mesos-framework");
const mesos = Mesos.getMesos();

const [port, name, image, directory] = process.argv.slice(2);
const tell = (what, more) => console.log(JSON.stringify(Object.assign({ what: what }, more)));
const line = (text) => new mesos.CommandInfo(null, null, true, text, null, null);
const wait = "echo \"$WHAT runs\"; until [ -e /tmp/end ]; do sleep 0.05; done";

const scheduler = new Scheduler({
    masterUrl: "127.0.0.1",
    port: port,
    frameworkName: name,
    // An idle stream has a heartbeat every 15 s; the package's default gives up
    // after 10.
    masterConnectionTimeout: 40,
    logging: { path: directory, fileName: "log", level: "error" },
    tasks: {
        command: {
            priority: 1, instances: 2, commandInfo: line("WHAT=command; " + wait),
            resources: { cpus: 0.1, mem: 32, ports: 0, disk: 0 },
        },
        docker: {
            priority: 2, commandInfo: line("WHAT=docker; " + wait),
            containerInfo: new mesos.ContainerInfo("DOCKER", null, null, new mesos.ContainerInfo.DockerInfo(image, "HOST")),
            resources: { cpus: 0.1, mem: 32, ports: 0, disk: 0 },
        },
    },
});

scheduler.on("ready", () => scheduler.subscribe());
scheduler.on("subscribed", (o) => tell("subscribed", { id: o.frameworkId, stream: o.mesosStreamId }));
scheduler.on("offers", (o) => tell("offers", { n: o.offers.length }));
scheduler.on("update", (u) => tell("update", {
    task: u.status.task_id.value, state: u.status.state, reason: u.status.reason || "", uuid: u.status.uuid || "",
}));
scheduler.on("error", (e) => tell("error", { text: e.message || String(e) }));
for (const what of ["heartbeat", "sent_accept", "sent_acknowledge", "sent_teardown"]) {
    scheduler.on(what, () => tell(what));
}
process.on("SIGUSR2", () => scheduler.teardown());
process.on("SIGTERM", () => process.exit(0));
