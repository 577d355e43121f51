/* A stand-in for NVIDIA's libnvidia-ml.so.1: the functions that mmq reaches through pynvml, and no more.
 *
 * The file named by NVML_STANDIN_STATE says what it shows. It is read anew at each call, so a test changes the
 * machine by writing the file. One word and its value a line:
 *
 *     driver 570.124.06           before the first `gpu`: the whole machine
 *     fail nvmlInitWithFlags 18   this function returns that error (here or, for one GPU, below its `gpu`)
 *     hang FUNCTION               it never returns
 *     crash FUNCTION              it dies of SIGSEGV
 *     exit FUNCTION               it ends the process with code 3
 *     gpu                         begins the next GPU
 *     uuid, name, total, reserved, used, capability 8.9, utilisation 37, mig 1, ecc 2, throttle 64
 *     compute PID BYTES, graphics PID BYTES, mps PID BYTES     BYTES "-": the driver does not say
 */
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum { SUCCESS = 0, INVALID_ARGUMENT = 2, INSUFFICIENT_SIZE = 7, UNINITIALIZED = 1, UNKNOWN = 999 };
enum { MAX_GPUS = 16, MAX_PROCESSES = 64, WORD = 96 };
#define NOT_AVAILABLE (~0ULL)

typedef unsigned int uint;
typedef unsigned long long bytes;
typedef void *Device; /* index + 1 */
typedef struct { uint pid; bytes used; uint gpu_instance, compute_instance; } Process;
typedef struct { bytes total, free, used; } Memory;
typedef struct { uint version; bytes total, reserved, free, used; } Memory2;
typedef struct { uint gpu, memory; } Utilisation;

typedef struct { char kind[WORD]; Process process; } Entry;
typedef struct {
    char uuid[WORD], name[WORD];
    bytes total, reserved, used, ecc, throttle;
    int major, minor, entries;
    uint utilisation, mig;
    Entry entry[MAX_PROCESSES];
} Gpu;
typedef struct { char driver[WORD]; int count; Gpu gpu[MAX_GPUS]; } Machine;

static Machine machine;
static int initialised;

static void misbehave(const char *how)
{
    if (!strcmp(how, "hang"))
        for (;;) pause();
    if (!strcmp(how, "crash")) raise(SIGSEGV);
    if (!strcmp(how, "exit")) _exit(3);
}

static void gpu_line(Gpu *gpu, const char *word, const char *rest)
{
    bytes number = strtoull(rest, NULL, 10);
    if (!strcmp(word, "uuid")) snprintf(gpu->uuid, WORD, "%s", rest);
    else if (!strcmp(word, "name")) snprintf(gpu->name, WORD, "%s", rest);
    else if (!strcmp(word, "total")) gpu->total = number;
    else if (!strcmp(word, "reserved")) gpu->reserved = number;
    else if (!strcmp(word, "used")) gpu->used = number;
    else if (!strcmp(word, "ecc")) gpu->ecc = number;
    else if (!strcmp(word, "throttle")) gpu->throttle = number;
    else if (!strcmp(word, "utilisation")) gpu->utilisation = (uint)number;
    else if (!strcmp(word, "mig")) gpu->mig = (uint)number;
    else if (!strcmp(word, "capability")) sscanf(rest, "%d.%d", &gpu->major, &gpu->minor);
    else if (gpu->entries < MAX_PROCESSES) { /* compute, graphics, mps */
        Entry *entry = &gpu->entry[gpu->entries++];
        char used[WORD] = "-";
        snprintf(entry->kind, WORD, "%s", word);
        sscanf(rest, "%u %95s", &entry->process.pid, used);
        entry->process.used = strcmp(used, "-") ? strtoull(used, NULL, 10) : NOT_AVAILABLE;
    }
}

/* Read the machine, and say what `function` must return on `device` (NULL: on no GPU in particular). */
static int enter(const char *function, Device device)
{
    char line[512], word[WORD], target[WORD];
    int rest, code, result = SUCCESS;
    FILE *file = fopen(getenv("NVML_STANDIN_STATE") ? getenv("NVML_STANDIN_STATE") : "", "r");
    if (!file) return UNKNOWN;
    memset(&machine, 0, sizeof machine);
    while (fgets(line, sizeof line, file)) {
        int here = machine.count == 0 || (Device)(long)machine.count == device;
        line[strcspn(line, "\n")] = 0;
        if (sscanf(line, " %95s %n", word, &rest) < 1) continue;
        if (!strcmp(word, "gpu") && machine.count < MAX_GPUS) machine.count++;
        else if (!strcmp(word, "driver")) snprintf(machine.driver, WORD, "%s", line + rest);
        else if (!strcmp(word, "fail")) {
            if (sscanf(line + rest, "%95s %d", target, &code) == 2 && here && !strcmp(target, function)) result = code;
        } else if (!strcmp(word, "hang") || !strcmp(word, "crash") || !strcmp(word, "exit")) {
            if (here && !strcmp(line + rest, function)) misbehave(word);
        } else if (machine.count > 0) gpu_line(&machine.gpu[machine.count - 1], word, line + rest);
    }
    fclose(file);
    if (result == SUCCESS && !initialised && strcmp(function, "nvmlInitWithFlags")) return UNINITIALIZED;
    if (result == SUCCESS && device && (long)device > machine.count) return INVALID_ARGUMENT;
    return result;
}

#define ENTER(device) do { int code = enter(__func__, device); if (code) return code; } while (0)
#define GPU(device) (&machine.gpu[(long)(device) - 1])

int nvmlInitWithFlags(uint flags) { (void)flags; ENTER(NULL); initialised = 1; return SUCCESS; }
int nvmlShutdown(void) { ENTER(NULL); initialised = 0; return SUCCESS; }

const char *nvmlErrorString(int code)
{
    switch (code) {
    case 1: return "Uninitialized";
    case 3: return "Not Supported";
    case 4: return "Insufficient Permissions";
    case 9: return "Driver Not Loaded";
    case 13: return "Function Not Found";
    case 15: return "GPU is lost";
    case 18: return "Driver/library version mismatch";
    default: return "Unknown Error";
    }
}

int nvmlSystemGetDriverVersion(char *version, uint length)
{
    ENTER(NULL);
    snprintf(version, length, "%s", machine.driver);
    return SUCCESS;
}

int nvmlDeviceGetCount_v2(uint *count) { ENTER(NULL); *count = (uint)machine.count; return SUCCESS; }

int nvmlDeviceGetHandleByIndex_v2(uint index, Device *device)
{
    *device = (Device)(long)(index + 1);
    ENTER(*device);
    return SUCCESS;
}

int nvmlDeviceGetName(Device device, char *name, uint length)
{
    ENTER(device);
    snprintf(name, length, "%s", GPU(device)->name);
    return SUCCESS;
}

int nvmlDeviceGetUUID(Device device, char *uuid, uint length)
{
    ENTER(device);
    snprintf(uuid, length, "%s", GPU(device)->uuid);
    return SUCCESS;
}

/* The first version counts what the driver keeps for itself as used; the second tells it apart. */
int nvmlDeviceGetMemoryInfo(Device device, Memory *memory)
{
    ENTER(device);
    Gpu *gpu = GPU(device);
    bytes used = gpu->used + gpu->reserved;
    *memory = (Memory){gpu->total, gpu->total - used, used};
    return SUCCESS;
}

int nvmlDeviceGetMemoryInfo_v2(Device device, Memory2 *memory)
{
    ENTER(device);
    Gpu *gpu = GPU(device);
    bytes free = gpu->total - gpu->used - gpu->reserved;
    *memory = (Memory2){memory->version, gpu->total, gpu->reserved, free, gpu->used};
    return SUCCESS;
}

int nvmlDeviceGetCudaComputeCapability(Device device, int *major, int *minor)
{
    ENTER(device);
    *major = GPU(device)->major;
    *minor = GPU(device)->minor;
    return SUCCESS;
}

int nvmlDeviceGetUtilizationRates(Device device, Utilisation *rates)
{
    ENTER(device);
    *rates = (Utilisation){GPU(device)->utilisation, 0};
    return SUCCESS;
}

int nvmlDeviceGetMigMode(Device device, uint *current, uint *pending)
{
    ENTER(device);
    *current = *pending = GPU(device)->mig;
    return SUCCESS;
}

int nvmlDeviceGetTotalEccErrors(Device device, uint type, uint counter, bytes *count)
{
    (void)type, (void)counter;
    ENTER(device);
    *count = GPU(device)->ecc;
    return SUCCESS;
}

int nvmlDeviceGetCurrentClocksEventReasons(Device device, bytes *reasons)
{
    ENTER(device);
    *reasons = GPU(device)->throttle;
    return SUCCESS;
}

static int list(Device device, const char *kind, uint *count, Process *processes)
{
    uint room = *count, found = 0;
    Gpu *gpu = GPU(device);
    for (int i = 0; i < gpu->entries; i++) {
        if (strcmp(gpu->entry[i].kind, kind)) continue;
        if (processes && found < room) processes[found] = gpu->entry[i].process;
        found++;
    }
    *count = found;
    return found > (processes ? room : 0) ? INSUFFICIENT_SIZE : SUCCESS;
}

#define PROCESS_LIST(function, kind) \
    int function(Device device, uint *count, Process *processes) \
    { \
        ENTER(device); \
        return list(device, kind, count, processes); \
    }

PROCESS_LIST(nvmlDeviceGetComputeRunningProcesses_v2, "compute")
PROCESS_LIST(nvmlDeviceGetComputeRunningProcesses_v3, "compute")
PROCESS_LIST(nvmlDeviceGetGraphicsRunningProcesses_v2, "graphics")
PROCESS_LIST(nvmlDeviceGetGraphicsRunningProcesses_v3, "graphics")
PROCESS_LIST(nvmlDeviceGetMPSComputeRunningProcesses_v2, "mps")
PROCESS_LIST(nvmlDeviceGetMPSComputeRunningProcesses_v3, "mps")
