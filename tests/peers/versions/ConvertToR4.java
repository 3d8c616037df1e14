import java.io.BufferedReader;
import java.io.InputStreamReader;
import java.io.OutputStreamWriter;
import java.io.PrintWriter;
import java.lang.management.ManagementFactory;
import java.nio.charset.StandardCharsets;
import java.util.ArrayList;
import java.util.List;
import org.hl7.fhir.convertors.factory.VersionConvertorFactory_30_40;
import org.hl7.fhir.convertors.factory.VersionConvertorFactory_40_50;
import org.hl7.fhir.convertors.factory.VersionConvertorFactory_43_50;
import org.hl7.fhir.r4.formats.IParser.OutputStyle;

/**
 * HL7's version converter on standard input: a line "RELEASE&lt;tab&gt;resource" gives a line with the resource in R4,
 * or "!" and the class of what it failed with. R4B goes by way of R5, the only way the converter has.
 *
 * With the argument "rate" the resources end with an empty line; after that a line of digits, one for each resource,
 * has those marked "1" converted, and gives the nanoseconds of processor time that this process took for it.
 */
public final class ConvertToR4 {
  public static void main(String[] args) throws Exception {
    BufferedReader in = new BufferedReader(new InputStreamReader(System.in, StandardCharsets.UTF_8));
    PrintWriter out = new PrintWriter(new OutputStreamWriter(System.out, StandardCharsets.UTF_8));
    if (args.length > 0 && args[0].equals("rate")) {
      rate(in, out);
      return;
    }
    for (String line = in.readLine(); line != null; line = in.readLine()) {
      int tab = line.indexOf('\t');
      out.print(converted(line.substring(0, tab), line.substring(tab + 1)) + "\n");
    }
    out.flush();
  }

  private static void rate(BufferedReader in, PrintWriter out) throws Exception {
    List<String[]> held = new ArrayList<>();
    for (String line = in.readLine(); !line.isEmpty(); line = in.readLine()) {
      held.add(line.split("\t", 2));
    }
    com.sun.management.OperatingSystemMXBean process =
        (com.sun.management.OperatingSystemMXBean) ManagementFactory.getOperatingSystemMXBean();
    for (String line = in.readLine(); line != null; line = in.readLine()) {
      long before = process.getProcessCpuTime();
      long length = 0;
      for (int at = 0; at < line.length(); at++) {
        if (line.charAt(at) == '1') {
          length += converted(held.get(at)[0], held.get(at)[1]).length();
        }
      }
      out.println((process.getProcessCpuTime() - before) + " " + length);
      out.flush();
    }
  }

  private static String converted(String release, String json) {
    try {
      org.hl7.fhir.r4.formats.JsonParser writer = new org.hl7.fhir.r4.formats.JsonParser();
      return writer.setOutputStyle(OutputStyle.NORMAL).composeString(inR4(release, json)).replace("\n", " ");
    } catch (Throwable failure) {
      return "!" + failure.getClass().getSimpleName();
    }
  }

  private static org.hl7.fhir.r4.model.Resource inR4(String release, String json) throws Exception {
    switch (release) {
      case "STU3":
        return VersionConvertorFactory_30_40.convertResource(new org.hl7.fhir.dstu3.formats.JsonParser().parse(json));
      case "R4B":
        return VersionConvertorFactory_40_50.convertResource(
            VersionConvertorFactory_43_50.convertResource(new org.hl7.fhir.r4b.formats.JsonParser().parse(json)));
      default:
        return VersionConvertorFactory_40_50.convertResource(new org.hl7.fhir.r5.formats.JsonParser().parse(json));
    }
  }
}
