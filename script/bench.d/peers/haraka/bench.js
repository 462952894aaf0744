'use strict'
// Haraka's plug-in of this bench: takes every recipient, looks nothing up and delivers nothing. With QUEUE in the
// environment each mail goes into Haraka's own outbound queue (a file, fsync) before the 250, and is dropped from there.

exports.hook_lookup_rdns = (next, connection) => {
    connection.relaying = Boolean(process.env.QUEUE)
    next(OK, 'localhost')
}

exports.hook_rcpt = (next) => next(OK)

exports.hook_send_email = (next, hmail) => hmail.discard()
