{{- /*
The rules as a Prometheus rule file; every other form of them is made of this one.

Rates first, each from classic histograms or, where there are none, from native ones. Then what the
question asks for: time beyond the pod's interface (network), time that an answering pod takes
(server), time that the node's own side takes (pod), segments sent again (loss). `lpm:slow:ratio`
names the pair of namespaces and the cause, and has no series while all is well.
*/ -}}
{{- define "lpm.rules" -}}
{{- $w := .Values.rules.window -}}
{{- $t := .Values.rules.thresholds -}}
{{- $ends := "namespace, peer_namespace" -}}
{{- $pair := printf "%s, peer_kind" $ends -}}
{{- $prompt := `leg="remote", echo="prompt", peer_kind!="external"` -}}
{{- /* From which share of the echoes on a class may stand for all of them. */ -}}
{{- $share := 0.5 -}}
{{- /* Over how long an alert looks back: an evaluation that missed, or a collection, ends none. */ -}}
{{- $bridge := "2m" -}}
groups:
  - name: lpm.rates
    rules:
      - record: lpm:rtt_seconds_sum:rate
        expr: |-
          sum by ({{ $pair }}, leg, echo) (rate(lpm_rtt_seconds_sum[{{ $w }}]))
          or
          sum by ({{ $pair }}, leg, echo) (histogram_sum(rate(lpm_rtt_seconds[{{ $w }}])))
      - record: lpm:rtt_seconds_count:rate
        expr: |-
          sum by ({{ $pair }}, leg, echo) (rate(lpm_rtt_seconds_count[{{ $w }}]))
          or
          sum by ({{ $pair }}, leg, echo) (histogram_count(rate(lpm_rtt_seconds[{{ $w }}])))
      - record: lpm:rtt_seconds:mean
        expr: lpm:rtt_seconds_sum:rate / (lpm:rtt_seconds_count:rate > {{ $t.samplesPerSecond }})
      {{- range $name, $quantile := dict "p50" 0.5 "p90" 0.9 "p99" 0.99 }}
      - record: lpm:rtt_seconds:{{ $name }}
        expr: |-
          histogram_quantile({{ $quantile }}, sum by ({{ $pair }}, leg, echo, le) (rate(lpm_rtt_seconds_bucket[{{ $w }}])))
          or
          histogram_quantile({{ $quantile }}, sum by ({{ $pair }}, leg, echo) (rate(lpm_rtt_seconds[{{ $w }}])))
      {{- end }}
      - record: lpm:flow_rtt_seconds:p90
        expr: |-
          histogram_quantile(0.9, sum by ({{ $pair }}, leg, le) (rate(lpm_flow_rtt_seconds_bucket[{{ $w }}])))
          or
          histogram_quantile(0.9, sum by ({{ $pair }}, leg) (rate(lpm_flow_rtt_seconds[{{ $w }}])))
      - record: lpm:flow_rtt_seconds_sum:rate
        expr: |-
          sum by ({{ $pair }}, leg) (rate(lpm_flow_rtt_seconds_sum[{{ $w }}]))
          or
          sum by ({{ $pair }}, leg) (histogram_sum(rate(lpm_flow_rtt_seconds[{{ $w }}])))
      - record: lpm:flow_rtt_seconds_count:rate
        expr: |-
          sum by ({{ $pair }}, leg) (rate(lpm_flow_rtt_seconds_count[{{ $w }}]))
          or
          sum by ({{ $pair }}, leg) (histogram_count(rate(lpm_flow_rtt_seconds[{{ $w }}])))
      - record: lpm:retransmissions:rate
        expr: sum by ({{ $pair }}) (rate(lpm_retransmissions_total[{{ $w }}]))
      # Per measured round trip: packets are not counted by namespace. Of bulk flows, where not every
      # packet is measured, it is more than the share of packets.
      - record: lpm:retransmissions:ratio
        expr: |-
          lpm:retransmissions:rate
            / (sum by ({{ $pair }}) (lpm:rtt_seconds_count:rate) > {{ $t.samplesPerSecond }})
      - record: lpm:dns_seconds:mean
        expr: |-
          (sum by (namespace) (rate(lpm_dns_seconds_sum[{{ $w }}])) or sum by (namespace) (histogram_sum(rate(lpm_dns_seconds[{{ $w }}]))))
            / ((sum by (namespace) (rate(lpm_dns_seconds_count[{{ $w }}])) or sum by (namespace) (histogram_count(rate(lpm_dns_seconds[{{ $w }}])))) > {{ $t.samplesPerSecond }})
      - record: lpm:dns_unanswered:ratio
        expr: |-
          sum by (namespace) (rate(lpm_dns_unanswered_total[{{ $w }}]))
            / ((
              (
                sum by (namespace) (rate(lpm_dns_seconds_count[{{ $w }}]))
                or sum by (namespace) (histogram_count(rate(lpm_dns_seconds[{{ $w }}])))
                or 0 * sum by (namespace) (rate(lpm_dns_unanswered_total[{{ $w }}]))
              )
              + sum by (namespace) (rate(lpm_dns_unanswered_total[{{ $w }}]))
            ) > {{ $t.samplesPerSecond }})
  - name: lpm.question
    # Each series bears the namespaces and nothing that depends on how it was found: what is slow for
    # an hour is one series for an hour.
    rules:
      # Prompt echoes: nobody sat on them.
      - record: lpm:network_seconds:prompt
        expr: |-
          sum by ({{ $ends }}) (lpm:rtt_seconds_sum:rate{ {{- $prompt -}} })
            / (sum by ({{ $ends }}) (lpm:rtt_seconds_count:rate{ {{- $prompt -}} }) > {{ $t.samplesPerSecond }})
      # What this end saw beyond itself less what the other end saw in its own pods, of the same echoes:
      # those with data, or where there are none, those without.
      - record: lpm:network_seconds:difference
        expr: |-
          (
            {{- range $number, $echo := list `echo="data"` `echo=~"prompt|lone"` }}
            {{- if $number }}
            or
            {{- end }}
            (
              sum by ({{ $ends }}) (lpm:rtt_seconds_sum:rate{leg="remote", {{ $echo }}, peer_kind=~"pod|service"})
              / (sum by ({{ $ends }}) (lpm:rtt_seconds_count:rate{leg="remote", {{ $echo }}, peer_kind=~"pod|service"}) > {{ $t.samplesPerSecond }})
              - on ({{ $ends }})
              label_replace(label_replace(label_replace(
                sum by ({{ $ends }}) (lpm:rtt_seconds_sum:rate{leg="local", {{ $echo }}, peer_kind=~"pod|service"})
                / (sum by ({{ $ends }}) (lpm:rtt_seconds_count:rate{leg="local", {{ $echo }}, peer_kind=~"pod|service"}) > {{ $t.samplesPerSecond }}),
                "swap", "$1", "namespace", "(.*)"),
                "namespace", "$1", "peer_namespace", "(.*)"),
                "peer_namespace", "$1", "swap", "(.*)")
            )
            {{- end }}
          ) > 0
      # Prompt echoes stand for all where they are at least half of them. Else the difference, and where
      # the other end is not measured, prompt ones again if they are half of those without data: of a
      # few among many lone ones it is the far end's lateness that made them prompt.
      - record: lpm:network_seconds:mean
        expr: |-
          (
            lpm:network_seconds:prompt
            and
            sum by ({{ $ends }}) (lpm:rtt_seconds_count:rate{ {{- $prompt -}} })
              / sum by ({{ $ends }}) (lpm:rtt_seconds_count:rate{leg="remote", peer_kind!="external"}) >= {{ $share }}
          )
          or lpm:network_seconds:difference
          or
          (
            lpm:network_seconds:prompt
            and
            sum by ({{ $ends }}) (lpm:rtt_seconds_count:rate{ {{- $prompt -}} })
              / sum by ({{ $ends }}) (lpm:rtt_seconds_count:rate{leg="remote", echo=~"prompt|lone", peer_kind!="external"}) >= {{ $share }}
          )
      # The least that a flow needed in 10 s, a mean over flows: of these no packet was sent again or
      # waited for one that was. Without what the other end's own pods took, where it is measured.
      - record: lpm:network_seconds:least
        expr: |-
          (
            sum by ({{ $ends }}) (lpm:flow_rtt_seconds_sum:rate{leg="remote", peer_kind=~"pod|service"})
            / (sum by ({{ $ends }}) (lpm:flow_rtt_seconds_count:rate{leg="remote", peer_kind=~"pod|service"}) > 0)
            - on ({{ $ends }})
            label_replace(label_replace(label_replace(
              sum by ({{ $ends }}) (lpm:flow_rtt_seconds_sum:rate{leg="local", peer_kind=~"pod|service"})
              / (sum by ({{ $ends }}) (lpm:flow_rtt_seconds_count:rate{leg="local", peer_kind=~"pod|service"}) > 0),
              "swap", "$1", "namespace", "(.*)"),
              "namespace", "$1", "peer_namespace", "(.*)"),
              "peer_namespace", "$1", "swap", "(.*)")
          )
          or
          sum by ({{ $ends }}) (lpm:flow_rtt_seconds_sum:rate{leg="remote", peer_kind!="external"})
            / (sum by ({{ $ends }}) (lpm:flow_rtt_seconds_count:rate{leg="remote", peer_kind!="external"}) > 0)
      # How long the node's own side of this namespace's pods takes to acknowledge: prompt echoes. A pod
      # that is late acknowledges more at once, and so more promptly: a few prompt ones are its late
      # ones. So they count as at least half of all echoes, and the mean is never above that of all.
      - record: lpm:pod_seconds:mean
        expr: |-
          min by ({{ $ends }}) (
            label_replace(
              sum by ({{ $ends }}) (lpm:rtt_seconds_sum:rate{leg="local", echo="prompt"})
              / (
                (
                  sum by ({{ $ends }}) (lpm:rtt_seconds_count:rate{leg="local", echo="prompt"})
                  > {{ $share }} * sum by ({{ $ends }}) (lpm:rtt_seconds_count:rate{leg="local"})
                )
                or {{ $share }} * sum by ({{ $ends }}) (lpm:rtt_seconds_count:rate{leg="local"})
              ),
              "echo", "prompt", "", "")
            or
            label_replace(
              sum by ({{ $ends }}) (lpm:rtt_seconds_sum:rate{leg="local"})
              / sum by ({{ $ends }}) (lpm:rtt_seconds_count:rate{leg="local"}),
              "echo", "all", "", "")
          )
          and sum by ({{ $ends }}) (lpm:rtt_seconds_count:rate{leg="local", echo="prompt"}) > {{ $t.samplesPerSecond }}
      # How long pods of this namespace take to answer, seen where they are: with data, less what the
      # node's side takes.
      - record: lpm:server_seconds:mean
        expr: |-
          (
            sum by ({{ $ends }}) (lpm:rtt_seconds_sum:rate{leg="local", echo="data"})
            / (sum by ({{ $ends }}) (lpm:rtt_seconds_count:rate{leg="local", echo="data"}) > {{ $t.samplesPerSecond }})
            - (
              lpm:pod_seconds:mean
              or 0 * sum by ({{ $ends }}) (lpm:rtt_seconds_count:rate{leg="local", echo="data"})
            )
          ) > 0
      - record: lpm:slow:ratio
        labels: {cause: network}
        expr: lpm:network_seconds:mean / {{ $t.network }} > 1 and lpm:network_seconds:least > {{ $t.network }}
      - record: lpm:slow:ratio
        labels: {cause: server}
        expr: lpm:server_seconds:mean / {{ $t.server }} > 1
      - record: lpm:slow:ratio
        labels: {cause: pod}
        expr: lpm:pod_seconds:mean / {{ $t.pod }} > 1
      - record: lpm:slow:ratio
        labels: {cause: loss}
        expr: |-
          sum by ({{ $ends }}) (lpm:retransmissions:rate{peer_kind!="external"})
            / (sum by ({{ $ends }}) (lpm:rtt_seconds_count:rate{peer_kind!="external"}) > {{ $t.samplesPerSecond }})
            / {{ $t.loss }} > 1
  - name: lpm.alerts
    rules:
      - alert: LpmSlow
        expr: max_over_time(lpm:slow:ratio[{{ $bridge }}])
        for: {{ .Values.rules.for }}
        labels: {severity: warning}
        annotations:
          summary: >-
            {{ "{{ $labels.namespace }} and {{ with $labels.peer_namespace }}{{ . }}{{ else }}peers outside{{ end }}: {{ $labels.cause }}" }}
          description: >-
            {{ "{{ $value | printf \"%.1f\" }} times the threshold. The cause is network: the time beyond the pods' interfaces; loss: retransmitted segments; server: the pods of {{ $labels.namespace }} take long to answer; pod: these pods or their side of the node take long to acknowledge." }}
      - alert: LpmDnsUnanswered
        expr: max_over_time(lpm:dns_unanswered:ratio[{{ $bridge }}]) > {{ $t.dnsUnanswered }}
        for: {{ .Values.rules.for }}
        labels: {severity: warning}
        annotations:
          summary: {{ "{{ $labels.namespace }}: {{ $value | humanizePercentage }} of the DNS queries get no answer" | quote }}
      # A filter before the probes' port is no loss of the network: the verdict says blocked.
      - alert: LpmProbeLoss
        expr: |-
          (
            sum by (source_node, target_node) (rate(lpm_probe_packets_total{result=~"lost|lost_forward|lost_backward|unreachable"}[{{ $w }}]))
              / sum by (source_node, target_node) (rate(lpm_probe_packets_total{result!="duplicate"}[{{ $w }}]))
          ) > {{ $t.probeLoss }}
          unless on (source_node, target_node) max_over_time(lpm_link_verdict{verdict="blocked"}[{{ $w }}])
        for: {{ .Values.rules.for }}
        labels: {severity: warning}
        annotations:
          summary: {{ "From {{ $labels.source_node }} to {{ $labels.target_node }} {{ $value | humanizePercentage }} of the probes are lost" | quote }}
      - alert: LpmLink
        expr: >-
          max by (source_node, target_node, verdict) (max_over_time(lpm_link_verdict{verdict!="ok"}[{{ $bridge }}])) > 0
        for: {{ .Values.rules.for }}
        labels: {severity: warning}
        annotations:
          summary: {{ "From {{ $labels.source_node }} to {{ $labels.target_node }}: {{ $labels.verdict }}" | quote }}
          description: >-
            network: probes are lost or slower than usual; path: on some paths only; host: a program of one end stands still;
            blocked: a filter holds up the probes, other traffic lives; gone: the peer does not answer ARP or ND, or left
            the API; clock: a clock was set, or is wrong. The agent's /api/v1/diagnosis has the grounds.
      - alert: LpmNotMeasuring
        expr: >-
          sum by (node, instance) (rate(lpm_packets_total[{{ $w }}])) > 1
          unless sum by (node, instance) (rate(lpm_samples_total[{{ $w }}])) > 0
        for: 15m
        labels: {severity: warning}
        annotations:
          summary: {{ "The agent at {{ $labels.instance }} sees packets but measures no round trip" | quote }}
          description: See lpm_interface_one_sided, lpm_parse_skipped_total and `lpm check` on the node.
      - alert: LpmNamesLate
        expr: >-
          max by (node, instance) (max_over_time(lpm_identity_lag_seconds[{{ $bridge }}])) > 30
          or max by (node, instance) (max_over_time(lpm_identity_synced[{{ $bridge }}]) == 0)
        for: 10m
        labels: {severity: warning}
        annotations:
          summary: {{ "The agent at {{ $labels.instance }} learns the names of pods late, or misses some" | quote }}
          description: The agent goes on measuring, with new addresses as `unknown`. See lpm_identity_errors_total and the agent's log.
      - alert: LpmMapFull
        expr: sum by (node, instance, map, reason) (rate(lpm_map_drops_total{reason="full", map!="samples"}[15m])) > 0
        for: 15m
        labels: {severity: warning}
        annotations:
          summary: {{ "The agent at {{ $labels.instance }} has no room left in its map {{ $labels.map }}" | quote }}
          description: What finds no room in the map is not measured. Raise `flows`, `rows` or `queries` in the configuration.
      # Whoever comes and goes must not begin the time anew.
      - alert: LpmInterfaceBlind
        expr: max by (node, instance, interface, vantage, reason) (max_over_time(lpm_interface_blind[{{ $w }}])) > 0
        for: 10m
        labels: {severity: warning}
        annotations:
          summary: {{ "{{ $labels.interface }} at {{ $labels.instance }} is not measured ({{ $labels.reason }})" | quote }}
          description: >-
            The reason is behind or contested: another program runs before the agent's and does not pass packets on;
            silent: packets pass, but none reaches the agent's program; refused: the programs cannot be attached. The
            agent's log names the cause.
{{- end }}
