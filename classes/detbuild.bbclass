# SPDX-License-Identifier: MIT
#
# Two builds of the same source give the same bytes: every recipe gets one epoch, and what its tasks
# start lives under that epoch instead of the wall clock.
#
#     INHERIT += "detbuild"
#
# in local.conf or the distribution is all. The first build after that finds nothing on an sstate mirror
# that was filled without it: the epoch enters the signature of do_unpack.
#
# Variables. "Hashed" says whether a change rebuilds the tasks that it touches.
#
# DETBUILD_ENABLED        Default "1". "0" lets a recipe leave: OE-Core's own epoch, no session.
#                             DETBUILD_ENABLED:pn-linux-yocto = "0"
#                         Hashed.
# DETBUILD_EPOCH_SOURCES  Where the epoch is looked for; the first that knows one wins. "file" is a
#                         __source-date-epoch.txt from SRC_URI, "git" the newest commit of the recipe's
#                         repositories, "known" the newest NEWS or ChangeLog, "youngest" the youngest file that
#                         came out of an archive, "fallback" SOURCE_DATE_EPOCH_FALLBACK.
#                             DETBUILD_EPOCH_SOURCES:pn-zlib = "known youngest fallback"
#                         Hashed into do_unpack. A recipe may also set SOURCE_DATE_EPOCH itself; that is hashed too.
# DETBUILD_TASKS          The tasks that run in a session. += works in a recipe; local.conf is read before the default
#                         is set, and += there would replace it.
#                             DETBUILD_TASKS:append = " do_install"
#                             DETBUILD_TASKS:remove:pn-acme = "do_compile"
#                         Not hashed, but a task that joins is hashed with the three below. A change parses all
#                         recipes again.
# DETBUILD_POLICY         What a session fixes. "time": the wall clocks, and file times later than the epoch.
#                         "strict": also the rules random, order, layout, pid and identity. "observe": nothing,
#                         and the audit tells what strict would fix. Rules are added with + and removed with -. Read
#                         docs/security.md before fixing random numbers. Hashed into DETBUILD_TASKS.
#                             DETBUILD_POLICY = "strict -random"
#                             DETBUILD_POLICY:pn-acme = "time +order"
# DETBUILD_RULES          Rows of your own for the programs' table, before the built-in ones that `detbuild policy`
#                         prints: JSON, or absolute paths of .json files. Hashed into DETBUILD_TASKS, by content.
#                             DETBUILD_RULES = '{"names": "mkversion", "clock": "real"}'
# DETBUILD_RULES_VERSION  Version of the table of rules behind the policies; read from the library, not to be
#                         set. Hashed into DETBUILD_TASKS.
# DETBUILD_EPOCH_VERSION  The same of how the epoch is found. Hashed into do_unpack.
# DETBUILD_NETWORK_TASKS  Names of DETBUILD_TASKS that get a session in spite of [network] = "1". Such tasks are
#                         left out otherwise, because certificates need the real time. Tasks of SSTATETASKS are left
#                         out always: their output is published before the session's end is known.
#                             DETBUILD_NETWORK_TASKS:pn-acme = "do_compile"
#                         Hashed like a task that joins.
#
# None of the following is hashed, and none may change what a build makes.
#
# DETBUILD_ENGINE         Default "auto", the best that works here; `detbuild doctor` says which that is and why.
#                             DETBUILD_ENGINE = "tracer"
# DETBUILD_SOCKET         Where the engine ebpf finds its daemon, detbuildd. The tracer has none.
#                             DETBUILD_SOCKET = "/run/user/1000/detbuildd.sock"
# DETBUILD_REQUIRE        Default "0". "1" fails a task whose session was degraded: the engine was missing or
#                         could not hold something. For build farms.
#                             DETBUILD_REQUIRE = "1"
# DETBUILD_LOG_LEVEL      Default "summary": a line in the task's log, and one for each program that outlives the task.
#                         "reads" lists every kind of read as well.
#                             DETBUILD_LOG_LEVEL = "reads"
# DETBUILD_OBSERVED_TASKS Further tasks, those of SSTATETASKS too, that run in a session of policy "observe": nothing is
#                         fixed for them, and `detbuild audit` tells which of them to add to DETBUILD_TASKS, and why.
#                         Empty by default, for it costs time.
#                             DETBUILD_OBSERVED_TASKS = "do_configure do_install do_rootfs"
# DETBUILD_AUDIT_DIR      Where the audits of all tasks are collected, for `detbuild audit`. `detbuild-compare` leaves a
#                         directory detbuild-audit at the top of what it compares, or in a directory deploy, out;
#                         give it --exclude for another name.
#                             DETBUILD_AUDIT_DIR = "/srv/farm/${MACHINE}/detbuild-audit"
# DETBUILD_STATE          Where the tasks of one build directory leave word for each other and for BitBake.
#                             DETBUILD_STATE = "${TOPDIR}/cache/detbuild"
#
# Files. ${WORKDIR}/__source-date-epoch.txt is a copy of SDE_FILE. ${T}/detbuild.do_compile.json is the audit
# of a task's session, also of one that failed: what its programs read, what was fixed, what leaked. What the task's
# own Python reads is in it as leaked; it sees the real time. The same is collected as
# ${DETBUILD_AUDIT_DIR}/${PN}.do_compile.json, of a multiconfig in mc/NAME below, until the task runs again.
#
# Degraded. Where a session was degraded and DETBUILD_REQUIRE is not "1", the build goes on, and
# SSTATE_SKIP_CREATION keeps this recipe's later tasks, and those of every recipe that depends on it, out of
# sstate and hash equivalence, until the task has run again under a whole session. One warning a build counts
# them. Not covered: dependencies between multiconfigs, and what uses the files of a deploy directory without
# depending on the task that put them there. BitBake's .siginfo files, which hold no output, are still written.

DETBUILD_ENABLED ?= "1"
DETBUILD_EPOCH_SOURCES ?= "file git known youngest fallback"
DETBUILD_TASKS ?= "\
    do_compile do_compile_kernelmodules do_compile_ptest_base do_compile_ptest_cargo \
    do_bundle_initramfs do_uboot_mkimage do_uboot_assemble_fitimage do_uki \
"
DETBUILD_POLICY ?= "time"
DETBUILD_RULES ?= ""
DETBUILD_RULES_VERSION := "${@__import__('detbuild.policy', fromlist=['VERSION']).VERSION}"
DETBUILD_EPOCH_VERSION := "${@__import__('detbuild.epoch', fromlist=['VERSION']).VERSION}"
DETBUILD_ENGINE ?= "auto"
DETBUILD_SOCKET ?= "/run/detbuild/detbuildd.sock"
DETBUILD_REQUIRE ?= "0"
DETBUILD_NETWORK_TASKS ?= ""
DETBUILD_LOG_LEVEL ?= "summary"
DETBUILD_OBSERVED_TASKS ?= ""
DETBUILD_AUDIT_DIR ?= "${DEPLOY_DIR}/detbuild-audit"
DETBUILD_STATE ?= "${TOPDIR}/cache/detbuild"

DETBUILD_UNHASHED = "DETBUILD_ENGINE DETBUILD_SOCKET DETBUILD_REQUIRE DETBUILD_OBSERVED_TASKS DETBUILD_LOG_LEVEL \
    DETBUILD_AUDIT_DIR DETBUILD_STATE DETBUILD_LAYERDIR DETBUILD_UNHASHED"
# The two lists of tasks decide at parse time who is hashed with the policy: BitBake's parse cache must know them.
BB_BASEHASH_IGNORE_VARS:append = " ${DETBUILD_UNHASHED} DETBUILD_TASKS DETBUILD_NETWORK_TASKS"
BB_HASHCONFIG_IGNORE_VARS:append = " ${DETBUILD_UNHASHED}"

python create_source_date_epoch_stamp() {
    import detbuild.recipe
    detbuild.recipe.stamp(d)
}
create_source_date_epoch_stamp[vardeps] += "\
    DETBUILD_EPOCH_SOURCES DETBUILD_EPOCH_VERSION DETBUILD_STATED_EPOCH SOURCE_DATE_EPOCH_FALLBACK \
"

# A recipe that leaves gets this in its place, which is what OE-Core's does, and nothing in place of the next.
python detbuild_leave_stamp() {
    source = d.getVar("SOURCE_BASEDIR") or d.getVar("S")
    oe.reproducible.epochfile_write(oe.reproducible.get_source_date_epoch(d, source), d.getVar("SDE_FILE"), d)
    import detbuild.recipe
    detbuild.recipe.forget_copies(d)
}

# What comes from sstate or from shared sources did not pass through the stamp above.
python detbuild_restore_epoch() {
    import detbuild.recipe
    detbuild.recipe.restore(d)
}
do_deploy_source_date_epoch[postfuncs] += "detbuild_restore_epoch"
do_deploy_source_date_epoch_setscene[postfuncs] += "detbuild_restore_epoch"

# rm_work leaves the stamp of do_deploy_source_date_epoch, so later tasks count on its file.
RM_WORK_EXCLUDE_ITEMS:append = " source-date-epoch __source-date-epoch.txt"

def detbuild_check_library(d):
    import detbuild
    wanted = os.path.join(d.getVar("DETBUILD_LAYERDIR"), "lib", "detbuild")
    found = os.path.dirname(detbuild.__file__)
    if os.path.realpath(found) != os.path.realpath(wanted):
        bb.fatal("BitBake imports detbuild from %s, but this layer's library is %s. The other one was probably "
            "installed for the Python that runs BitBake. Run: python3 -m pip uninstall detbuild" % (found, wanted))

# One handler for all: BitBake registers each one again for every recipe. No signature covers it. The task's
# events fire in the task's own process, the others in BitBake's server and its parsers.
python detbuild_event() {
    if isinstance(e, bb.event.ConfigParsed):
        return detbuild_check_library(d)
    import detbuild.task
    detbuild.task.handle(e)
}
addhandler detbuild_event
detbuild_event[eventmask] = "\
    bb.event.ConfigParsed bb.event.RecipeTaskPreProcess \
    bb.build.TaskStarted bb.build.TaskSucceeded bb.build.TaskFailed bb.build.TaskFailedSilent \
    bb.event.BuildStarted bb.runqueue.runQueueTaskFailed bb.event.BuildCompleted \
"
